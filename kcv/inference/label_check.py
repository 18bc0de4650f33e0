"""Probabilities that the labels of a source are judged by: out-of-fold predictions, or those of another model."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv import images
from kcv.common.cores import usable_cores
from kcv.common.files import expand_user
from kcv.common.progress import Progress
from kcv.data.classes import relabel
from kcv.data.dataset import SPLITS, Samples, Source, join
from kcv.errors import DataError, ImageError
from kcv.inference import out_of_fold
from kcv.inference.classifier import Classifier, open_classifier
from kcv.inference.locating import model_file
from kcv.quality.copies.folds import pool_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """Images with labels and probabilities.

    Attributes:
        samples: the images; their labels are positions in `class_names`.
        splits: the split of each.
        probabilities: [n, classes].
        class_names: the classes, in order.
        measured: where the probabilities are from.
    """

    samples: Samples
    splits: list[str]
    probabilities: NDArray[np.floating[Any]]
    class_names: tuple[str, ...]
    measured: str


def judge(source: Source, model: str | Path, *, device: str = "auto", progress: bool = False) -> Judged:
    """Returns probabilities for the labelled images of a source; those that cannot be read are left out.

    Args:
        source: the images.
        model: the folder of a training in folds of these images, whose out-of-fold predictions are read; or a model
            as for `predict`, which classifies the images of all splits.
        device: where to compute.
        progress: whether to show a progress bar.

    Raises:
        ArtifactError: the model cannot be opened.
        DataError: the predictions are of other images; the source has a class that the model does not know; or no
            image can be read.
    """
    folder = expand_user(model)
    if out_of_fold.is_folder(folder):
        pool = pool_of(source)
        found = out_of_fold.OutOfFold.read(folder / out_of_fold.FILE, pool.names, pool.labels, source.class_names)
        measured = f"out of fold, {len(np.unique(found.folds))} folds"
        return Judged(pool, _splits(source, "train", "val"), found.probabilities, source.class_names, measured)
    classifier = open_classifier(model_file(model), device=device)
    if getattr(classifier.info, "data_fingerprint", None) == source.fingerprint:
        _log.warning(
            "%s was trained on these images, so it has learned wrong labels, too, and finds fewer of them; "
            "train with --folds=5 and name that folder", model,
        )  # fmt: skip
    everything = join([source.splits[split] for split in SPLITS if split in source.splits])
    labels = relabel(everything.labels, source.class_names, classifier.class_names, source.name, "the model")
    everything = Samples(everything.images, labels, everything.names)
    read, scores = _classified(classifier, everything, progress=progress)
    if not len(read):
        raise DataError(f"{source.name}: has no image that can be read, to judge its label")
    splits = _splits(source, *SPLITS)
    return Judged(everything.take(read), [splits[i] for i in read], scores, classifier.class_names, str(model))


def _splits(source: Source, *splits: str) -> list[str]:
    return [split for split in splits if split in source.splits for _ in range(len(source.splits[split]))]


def _classified(
    model: Classifier, samples: Samples, *, progress: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns the positions of the images that can be read, and their probabilities."""

    def decode(position: int) -> NDArray[np.uint8] | None:
        try:
            return images.load(samples.images[position], model.image_size, model.resize, name=samples.names[position])
        except (ImageError, OSError):  # the check reports it
            return None

    read: list[int] = []
    scores: list[NDArray[np.float32]] = [np.zeros((0, len(model.class_names)), np.float32)]
    bounds = [*range(0, len(samples), model.preferred_batch), len(samples)]
    with (
        Progress(len(samples) if progress else None, "classifying images") as bar,
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        for begin, end in pairwise(bounds):
            decoded = list(pool.map(decode, range(begin, end)))
            held = [i for i, pixels in enumerate(decoded, begin) if pixels is not None]
            if held:
                read += held
                scores.append(model.predict_pixels(np.stack([pixels for pixels in decoded if pixels is not None])))
            bar.advance(end - begin)
    return np.array(read, np.int64), np.concatenate(scores)
