"""Loads a source by name into labelled, split images at a model's size.

source name -> Source (encoded images) -> split -> Images (decoded in memory, or read when needed)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv.common.download import is_url
from kcv.common.files import expand_user
from kcv.common.redaction import data_without_credentials
from kcv.common.text import shortened
from kcv.config import MIN_IMAGE_SIZE
from kcv.data import sources
from kcv.data import split as splitting
from kcv.data.classes import relabel
from kcv.data.dataset import SPLITS, Dataset, Encoded, Images, Labels, Pixels, Samples, Source, join
from kcv.data.fold import Fold
from kcv.data.folds import Division
from kcv.data.in_memory import decode
from kcv.data.places import place_of
from kcv.data.row_images import RowImages
from kcv.data.sources import NO_OPTIONS, PathSource, SourceOptions
from kcv.errors import DataError, ImageError
from kcv.images import dimensions
from kcv.quality.copies.folds import division_of, split_fold
from kcv.stores.location import is_object_url

if TYPE_CHECKING:
    from kcv.config import DataConfig

__all__ = [
    "Dataset",
    "Encoded",
    "Images",
    "Labels",
    "Pixels",
    "Samples",
    "Source",
    "evenly",
    "load",
    "load_split",
    "open_source",
    "options_of",
    "own_size",
    "representative",
    "source_of",
    "split_source",
]  # fmt: skip

_log = logging.getLogger(__name__)

DEFAULT_SIZE = 224
_SMALL = 64  # if all images are squares of one size, of at most this side in pixels, they keep that size
_PEEK = 16
_SPREAD = 64  # row groups that a sample is taken from


def open_source(name: str, *, began_in: Path | None = None, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens a source by its name, a path (such as a folder of class folders, or a label file), or a URL.

    A path that does not exist here is searched under KCV_DATA_DIR.

    Args:
        name: the name, path or URL.
        began_in: the working folder of the run that the name comes from; it is searched first.
        options: what to read of it.

    Raises:
        DataError: there is no such source, it contains nothing usable, or it does not have one of the options.
    """
    if (known := sources.find(name)) is not None:
        options.require_taken((), name, "a data set with a name")
        return known.open()
    kinds = sources.paths()
    if is_object_url(name):
        return _open_objects(name, kinds, options)
    if is_url(name):
        kind = next(kind for kind in kinds if kind.recognises_url(name))
        options.require_taken(kind.options, data_without_credentials(name), kind.description)
        assert kind.open_url is not None
        return kind.open_url(name, options)
    path = place_of(name, sources.names(), began_in)
    for kind in kinds:
        if kind.recognises(path):
            options.require_taken(kind.options, name, kind.description)
            return kind.open(path, name, options)
    raise DataError(f"{name}: is neither {' nor '.join(kind.description for kind in reversed(kinds))}.")


def _open_objects(url: str, kinds: Sequence[PathSource], options: SourceOptions) -> Source:
    from kcv.data.objects.place import ObjectPlace

    place = ObjectPlace.find(url)
    for kind in kinds:
        if kind.open_objects is not None and kind.recognises_objects(place):
            options.require_taken(kind.options, place.url, kind.description)
            return kind.open_objects(place, options)
    raise DataError(
        f"{shortened(url)}: is an object of no kind that is read from a store: a prefix of class folders, .parquet, "
        ".tar (WebDataset), .csv, .tsv and .jsonl are."
    )


def options_of(data: DataConfig, *, firm: bool = True, began_in: Path | None = None) -> SourceOptions:
    """Returns the options of a configuration's source.

    Args:
        data: the configuration.
        firm: see `SourceOptions.firm`.
        began_in: as for `open_source`; a relative folder starts from it.
    """
    folder = data.image_folder
    if folder is not None and began_in is not None and os.path.isdir(began_in / expand_user(folder)):
        folder = str(began_in / expand_user(folder))
    return SourceOptions(data.image_column, data.label_column, data.config, folder, firm)


def source_of(data: DataConfig, *, began_in: Path | None = None) -> Source:
    """Opens the source of a configuration, with its options.

    Args:
        data: the configuration.
        began_in: see `open_source`.

    Raises:
        DataError: as for `open_source`.
    """
    return open_source(data.source, began_in=began_in, options=options_of(data, began_in=began_in))


def load(data: DataConfig, *, began_in: Path | None = None, source: Source | None = None, test: bool = True) -> Dataset:
    """Opens, splits and decodes the data that `data` describes.

    Args:
        data: the source and its options.
        began_in: see `open_source`.
        source: the source, if it is open already.
        test: whether the test split is there; its images are not read otherwise.

    Raises:
        DataError: the source cannot be used for training, or contains images that cannot be read.
    """
    if source is None:
        source = source_of(data, began_in=began_in)
    train, val, held_out = split_source(source, data)
    size = data.image_size or own_size(source)
    parts = [train, val] + ([held_out] if held_out is not None else [])
    in_memory = _fits(sum(map(len, parts)), size, data.memory_budget_mb)
    if not test:  # whether images are in memory must not depend on it
        parts = parts[:2]
    images = [_images(part, size, data.resize, in_memory) for part in parts]
    return Dataset(
        name=source.name,
        class_names=source.class_names,
        image_size=size,
        resize=data.resize,
        fingerprint=source.fingerprint,
        train=images[0],
        val=images[1],
        test=images[2] if len(images) > 2 else None,
        in_memory=in_memory,
        understood=tuple(source.understood.lines()) if source.understood else (),
        versions=source.versions,
    )


def load_split(
    data: DataConfig,
    split: str,
    class_names: Sequence[str],
    trained_on: str | None = None,
    *,
    same_source: bool = False,
    most: int | None = None,
    began_in: Path | None = None,
    tell: bool = False,
    changed: bool = False,
    warn: bool = True,
) -> Images:
    """Loads one split for a trained model, with labels as positions in the model's `class_names`, matched by name.

    A split that the source provides is used unchanged. A split that training derived is derived again in the same way
    if the source is unchanged. Any other source without splits is used as a whole for the requested split.

    Args:
        data: the source and its options; `image_size` must be set.
        split: train, val or test.
        class_names: the class names of the model; the source may have fewer.
        trained_on: fingerprint of the source that the model was trained on.
        same_source: whether `data.source` stands for the training data. If so, and the source has changed, a split that
            training derived is not replaced by the whole source, which includes training images. Moreover, a local
            folder or file must be unchanged: a model file from someone else that names a local path cannot know its
            content.
        most: the maximum number of images, evenly spread.
        began_in: see `open_source`.
        tell: whether to log how a folder was interpreted.
        changed: whether a folder or file may have changed since training, because the user chose it and not only the
            model file names it.
        warn: whether to warn that the source has changed; False if the caller has already warned.

    Raises:
        DataError: the source has no such split, has changed, or has a class that the model does not have.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is not one of {', '.join(SPLITS)}.")
    if data.image_size is None:
        raise ValueError("load_split needs data.image_size: the model's")
    options = options_of(data, firm=same_source, began_in=began_in)
    source = open_source(data.source, began_in=began_in, options=options)
    for line in source.understood.lines() if tell and source.understood else ():
        _log.info("data       %s", line)
    if same_source and trained_on != source.fingerprint:
        if source.flat or data.fold is not None:
            raise DataError(
                f"{source.name}: has changed since the model was trained on it, so the {split} split is lost; "
                "name the data to measure all of it, training images included."
            )
        if not changed and data.source not in sources.names() and not is_url(data.source):
            raise DataError(
                f"{source.name}: is not what the model was trained on, or has changed since. Only the model's file "
                f"names it; name it to use it: --data={data.source}"
            )
        if warn:
            _log.warning("%s has changed since the model was trained on it", source.name)
    samples = _choose(source, data, split, trained_on)
    labels = relabel(samples.labels, source.class_names, class_names, source.name, "the model")
    samples = Samples(samples.images, labels, samples.names)
    if most is not None:
        samples = samples.take(evenly(len(samples), most))
    in_memory = _fits(len(samples), data.image_size, data.memory_budget_mb)
    return _images(samples, data.image_size, data.resize, in_memory)


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """Returns up to `most` of the positions 0 to n - 1, evenly spread, because sources are often ordered by class."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def representative(images: Images, most: int) -> NDArray[np.int64]:
    """Returns up to `most` positions spread over a split, ascending, that are cheap to read.

    For images that stay in Parquet files, these are the first images of evenly spread row groups, because an even
    spread over all images would mean reading everything.
    """
    rows = images.samples.images
    if images.pixels is not None or not isinstance(rows, RowImages):
        return evenly(len(images), most)
    begins = np.flatnonzero(np.diff(rows.groups.of(rows.rows), prepend=-1))
    ends = np.append(begins[1:], len(rows))
    chosen = evenly(len(begins), _SPREAD)
    each = -(-most // len(chosen))
    runs = [np.arange(begins[i], min(begins[i] + each, ends[i])) for i in chosen]
    return np.concatenate(runs)[:most].astype(np.int64)


def split_source(source: Source, data: DataConfig) -> tuple[Samples, Samples, Samples | None]:
    """Returns train, val and test as training uses them; evaluation makes the same call.

    Raises:
        DataError: the source cannot be used for training.
    """
    if data.fold is not None:
        return split_fold(_in_folds(source, data), division_of_source(source, data))
    return splitting.three_way(
        source, val_fraction=data.val_fraction, test_fraction=data.test_fraction, seed=data.split_seed
    )


def division_of_source(source: Source, data: DataConfig) -> Division:
    """Returns what the fold that `data.fold` names trains, validates and measures on.

    Raises:
        DataError: the source cannot be divided into folds.
    """
    assert data.fold is not None
    splitting.require_trainable(source)
    images = sum(map(len, source.splits.values()))
    return division_of(
        _in_folds(source, data),
        Fold.parse(data.fold),
        val_fraction=data.val_fraction if data.fold_split == "test" else None,
        seed=data.split_seed,
        in_memory=_fits(images, data.image_size or own_size(source), data.memory_budget_mb),
        known_by=(source.fingerprint, data.fold_split, data.val_fraction, data.test_fraction, data.split_seed),
    )


def _in_folds(source: Source, data: DataConfig) -> Source:
    """Returns the source whose images of train and val are divided: without the test split, where folds validate.

    That is the test split of a run without folds, so that neither kind of run ever trains on it.
    """
    if data.fold_split == "test":
        return source
    train, val, test = split_source(source, data.model_copy(update={"fold": None, "fold_split": "test"}))
    splits = {"train": join([train, val])} | ({"test": test} if test is not None else {})
    return replace(source, splits=splits)


def _choose(source: Source, data: DataConfig, split: str, trained_on: str | None) -> Samples:
    has_all = data.fold is None and all(name in source.splits for name in SPLITS)
    if not has_all and trained_on is not None and source.fingerprint == trained_on:
        chosen = dict(zip(SPLITS, split_source(source, data), strict=True))[split]
    elif source.flat:
        chosen = source.splits["train"]
    else:
        chosen = source.splits.get(split)
    if chosen is None or not len(chosen):
        raise DataError(f"{source.name}: has no {split} split, only {', '.join(source.splits) or 'nothing'}.")
    return chosen


def own_size(source: Source) -> int:
    """Returns the images' own size if a sample of them are all equal small squares, otherwise `DEFAULT_SIZE`."""
    if source.image_size is not None:
        return source.image_size
    train = source.splits["train"]
    step = max(1, len(train) // _PEEK)
    shapes = set()
    for i in range(0, len(train), step):
        try:
            shapes.add(dimensions(train.images[i], name=train.names[i]))
        except ImageError:  # decoding reports it together with all others
            continue
    if len(shapes) == 1:
        height, width = shapes.pop()
        if height == width <= _SMALL:
            return max(height, MIN_IMAGE_SIZE)
    return DEFAULT_SIZE


def _fits(n: int, size: int, budget_mb: int) -> bool:
    return n * size * size * 3 <= budget_mb * 2**20


def _images(samples: Samples, size: int, resize: str, in_memory: bool) -> Images:
    pixels = decode(samples, size, resize) if in_memory else None
    return Images(samples, size, resize, pixels)
