"""Real images to check an export with: the validation images of the model, or others that the user names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv.common.files import expand_user
from kcv.common.redaction import data_without_credentials
from kcv.common.untrusted import refusing
from kcv.data import loading, sources
from kcv.errors import DataError
from kcv.images import find, stack, walk
from kcv.images.files import is_clutter
from kcv.inference.splits import data_config, load_split

if TYPE_CHECKING:
    from kcv.data.dataset import Images
    from kcv.inference.keras_model import LoadedModel

MOST_CHECKED = 1000
MOST_CALIBRATED = 512
_FEWEST_CALIBRATED = 16


@dataclass(frozen=True)
class Samples:
    """Images at a model's size.

    Attributes:
        name: a readable description.
        pixels: uint8 [n, size, size, 3]; at least one image.
        labels: positions in the model's class names, int64 [n]; None if the images have no labels.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


def to_check(model: LoadedModel, given: str | None) -> Samples:
    """Returns up to `MOST_CHECKED` images to check an export with; by default the model was not trained on them.

    Args:
        model: the model.
        given: a source as for `--data`, a folder of images without classes, or one image; None for the validation
            split of the training data.

    Raises:
        DataError: there are no images, or they cannot be read.
    """
    if given is None:
        try:
            return _labelled(model, None, "val", MOST_CHECKED)
        except DataError as error:
            raise DataError(f"{error} Images to check the export with may be named: --samples=PATH.") from None
    path = expand_user(given)
    if _holds_no_classes(path):
        files = _spread(list(find([path])), MOST_CHECKED)
        return Samples(given, stack(files, model.image_size, model.resize), None)
    options = loading.options_of(data_config(model, given), firm=False)
    splits = loading.open_source(given, options=options).splits
    split = next(name for name in ("val", "test", "train") if name in splits)
    return _labelled(model, given, split, MOST_CHECKED)


def to_calibrate(model: LoadedModel, given: str | None, checked: Samples) -> tuple[Samples, Samples]:
    """Returns the images to calibrate a quantised model on, and those to check it with.

    Calibration uses training images. If the user named images, only those are used: half for calibration, half for
    the check.

    Raises:
        DataError: there are too few images, or they have no labels.
    """
    if checked.labels is None:
        raise DataError(f"{checked.name}: has no classes, so the accuracy of int8 cannot be checked with it.")
    if given is None:
        # If they have changed since training, `to_check` has already warned.
        return _labelled(model, None, "train", MOST_CALIBRATED, warn=False), checked
    calibrating, checking = (
        Samples(checked.name, checked.pixels[start::2], checked.labels[start::2]) for start in (0, 1)
    )
    if len(calibrating.pixels) < _FEWEST_CALIBRATED:
        needed = 2 * _FEWEST_CALIBRATED
        raise DataError(f"{given}: {len(checked.pixels)} images are too few for int8, which needs {needed} or more.")
    return calibrating, checking


def _labelled(model: LoadedModel, source: str | None, split: str, most: int, *, warn: bool = True) -> Samples:
    images: Images = load_split(model, split, source, most=most, warn=warn)
    pixels = np.stack([images.read(i) for i in range(len(images))])
    names = {"val": "validation", "train": "training", "test": "test"}
    shown = data_without_credentials(source or model.info.data_name)
    return Samples(f"{names[split]} images of {shown}", pixels, images.labels)


def _holds_no_classes(path: Path) -> bool:
    with refusing(path, DataError):
        if os.path.isdir(path):  # unlike Path.is_dir, it is False for invalid file names
            # A stray image next to class folders does not make the folder one without classes.
            folders = any(child.is_dir() and not is_clutter(child.name) for child in path.iterdir())
            return not folders and next(walk(path, recursive=False), None) is not None
        return os.path.isfile(path) and not any(kind.recognises(path) for kind in sources.paths())


def _spread(files: list[Path], most: int) -> list[Path]:
    """Takes up to `most` files, evenly spread, because folders are often in the order of their classes."""
    return [files[i] for i in loading.evenly(len(files), most)]
