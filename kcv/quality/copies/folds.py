"""Divides a source into folds in which no copy of an image stands on both sides."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import replace
from typing import Final

import numpy as np

from kcv.data.dataset import Labels, Samples, Source, join
from kcv.data.fold import Fold
from kcv.data.folds import Division, divide
from kcv.data.row_images import RowImages
from kcv.errors import DataError
from kcv.quality.copies.duplicates import groups_of
from kcv.quality.copies.scan import scan

_log = logging.getLogger(__name__)

MOST_COMPARED: Final = 100_000
"""The most images that are searched for near-duplicates; of more, only exact copies are kept together."""

_known: dict[Hashable, tuple[Labels, Labels]] = {}
"""The copies among the images that were searched last: one search serves all folds."""
_told: set[tuple[Hashable, int]] = set()
"""What this process has warned of: which images, and a number of folds."""


def pool_of(source: Source) -> Samples:
    """Returns the images that are divided into folds: those of train and val; of test, none."""
    return join([source.splits[split] for split in ("train", "val") if split in source.splits])


def division_of(
    source: Source,
    fold: Fold,
    *,
    val_fraction: float | None,
    seed: int,
    in_memory: bool,
    known_by: Hashable,
) -> Division:
    """Divides the images of `pool_of` for the training of one fold; see `kcv.data.folds.divide`.

    Args:
        source: the source.
        fold: which fold, of how many.
        val_fraction: fraction (0-1) of the images outside of the fold that is used for validation; None if the fold
            itself validates.
        seed: the same seed and images give the same division.
        in_memory: whether the images fit in memory.
        known_by: what decides the images, so that their copies are searched for once.

    Raises:
        DataError: a class has too few images; the images can only be read in the order of their files; or the folds
            are others than `fold` says.
    """
    pool = pool_of(source)
    if not in_memory and any(isinstance(part.images, RowImages) for part in source.splits.values()):
        raise DataError(
            f"{source.name}: is larger than data.memory_budget_mb, and its files are read from beginning to end, so it "
            "cannot be divided into folds."
        )
    if known_by not in _known:
        _known.clear()
        _known[known_by] = _search(source, pool)
    copies = _known[known_by]
    found = divide(
        pool, copies, fold, val_fraction=val_fraction, seed=seed, name=source.name, class_names=source.class_names
    )
    if found.exact and (known_by, fold.of) not in _told:
        _told.add((known_by, fold.of))
        _log.warning(
            "near-duplicates leave too few groups for %d folds, so only exact copies are kept together; the "
            "accuracy may be too good", fold.of,
        )  # fmt: skip
    return found


def split_fold(source: Source, division: Division) -> tuple[Samples, Samples, Samples | None]:
    """Returns train, val and test of one fold; test are the images that the fold holds out.

    Where none are held out, as for fold 0 or a fold that validates, it is the test split of the source, if it has one.
    """
    pool = pool_of(source)
    test = pool.take(division.held_out) if len(division.held_out) else source.splits.get("test")
    return pool.take(division.train), pool.take(division.val), test


def _search(source: Source, pool: Samples) -> tuple[Labels, Labels]:
    """Returns the group of each image by near-duplicates, and by exact copies, each int64 [n]."""
    near = len(pool) <= MOST_COMPARED
    found = groups_of(scan(replace(source, splits={"train": pool}), progress=True), near=near, progress=True)
    together = int((np.bincount(found[0]) > 1).sum())
    if together:
        kind = "copies and near-duplicates" if near else "exact copies"
        _log.info("copies     %s groups of %s, each of which stays in one fold", f"{together:,}", kind)
    return found
