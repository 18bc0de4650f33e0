"""Folds: the images are divided into parts of equal make-up, each of which is held out of one training.

Folds are stratified (each has the same fraction of every class, as far as it goes) and grouped (copies of an image are
never on both sides of a division). Within the images that a fold trains on, a validation part is set apart in the same
way, so that the epoch is chosen, and confidences are calibrated, on images that the fold's accuracy is not measured on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kcv.data.dataset import Labels, Samples
from kcv.data.fold import Fold
from kcv.errors import DataError


def digest_of(assigned: Labels) -> str:
    """Returns 16 hexadecimal digits that identify an assignment of images to folds."""
    return hashlib.sha256(np.ascontiguousarray(assigned, dtype="<i8").tobytes()).hexdigest()[:16]


def assign(labels: Labels, groups: Labels, folds: int, seed: int) -> Labels:
    """Assigns images to folds, stratified by class; a group is never divided.

    The groups of several images come first, the largest before the others, because they are the hardest to place; then
    all others. Each goes to the fold with the smallest fraction of its class so far; of equals, to the smallest.

    Args:
        labels: class positions, int64 [n].
        groups: the group of each image, int64 [n], of any numbering.
        folds: how many folds, at least 2.
        seed: of the order within equals.

    Returns:
        The fold of each image, int64 [n], from 0.
    """
    members = _members(groups, seed)
    totals = np.bincount(labels)
    counts = np.zeros((folds, len(totals)))
    sizes = np.zeros(folds)
    assigned = np.empty(len(labels), np.int64)
    # Class by class, so that what is left over of one goes where another left a fold smaller; else as shuffled.
    for group in sorted(members, key=lambda one: (-len(one), labels[one[0]])):
        classes, own = np.unique(labels[group], return_counts=True)
        load = (counts[:, classes] * (own / totals[classes])).sum(axis=1)
        fold = int(np.lexsort((sizes, load))[0])
        assigned[group] = fold
        counts[fold, classes] += own
        sizes[fold] += len(group)
    return assigned


def set_apart(labels: Labels, groups: Labels, fraction: float, seed: int) -> NDArray[np.bool_] | None:
    """Sets a stratified part of images apart, such as a validation part; a group is never divided.

    Args:
        labels: class positions, int64 [n].
        groups: the group of each image, int64 [n].
        fraction: the fraction of each class to set apart, 0-1; at least one image, and at least one stays.
        seed: the same seed and images give the same part.

    Returns:
        Whether each image is in the part, bool [n]; None if a class cannot be on both sides.
    """
    totals = np.bincount(labels)
    wanted = np.clip(np.floor(totals * fraction + 0.5), 1, np.maximum(totals - 1, 1)).astype(np.int64)
    taken = np.zeros_like(totals)
    apart = np.zeros(len(labels), np.bool_)
    members = [(group, *np.unique(labels[group], return_counts=True)) for group in _members(groups, seed)]
    for group, classes, own in members:
        if (taken[classes] + own <= wanted[classes]).all():
            apart[group] = True
            taken[classes] += own
    for missing in np.flatnonzero((taken == 0) & (totals > 0)):  # all of its groups are larger than wanted
        fitting = [
            (group, classes, own)
            for group, classes, own in members
            if missing in classes and not apart[group[0]] and (taken[classes] + own < totals[classes]).all()
        ]
        if not fitting:
            return None
        group, classes, own = min(fitting, key=lambda one: len(one[0]))
        apart[group] = True
        taken[classes] += own
    return None if (taken >= totals)[totals > 0].any() else apart


def _members(groups: Labels, seed: int) -> list[NDArray[np.int64]]:
    """Returns the positions of each group, ascending; the groups in a shuffled order."""
    # NumPy guarantees that these numbers never change, unlike those of its newer generators.
    order = np.random.RandomState(seed).permutation(len(groups))
    _, first, inverse = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = first[inverse]  # of the group: where its first image comes in the shuffled order
    positions = order[np.lexsort((order, rank))]
    ends = np.flatnonzero(np.diff(np.sort(rank))) + 1
    return np.split(positions.astype(np.int64), ends)


@dataclass(frozen=True)
class Division:
    """What one fold trains, validates and measures on.

    Attributes:
        train: positions of the training images, int64, ascending.
        val: positions of the validation images.
        held_out: positions of the images of the fold; empty for fold 0, and where the fold validates.
        assigned: the fold of every image, int64 [n], from 0.
        groups: the group of every image, int64 [n].
        exact: whether only exact copies are kept together, because near-duplicates leave too few groups.
    """

    train: Labels
    val: Labels
    held_out: Labels
    assigned: Labels
    groups: Labels
    exact: bool


def divide(
    pool: Samples, copies: tuple[Labels, Labels], fold: Fold, *, val_fraction: float | None, seed: int, name: str,
    class_names: tuple[str, ...],
) -> Division:  # fmt: skip
    """Divides images for the training of one fold.

    Args:
        pool: the images.
        copies: the group of each image, int64 [n], by near-duplicates and by exact copies. The second is used if the
            first leaves fewer groups than folds, or a class so few that it cannot be in all parts.
        fold: which fold, of how many.
        val_fraction: fraction (0-1) of the images outside of the fold that is used for validation; None if the fold
            itself validates, and none is held out beside it.
        seed: the same seed and images give the same division.
        name: name of the data, for messages.
        class_names: the class names.

    Raises:
        DataError: there are too few images, or too few of a class; or the assignment is another than the fold says.
    """
    counts = np.bincount(pool.labels, minlength=len(class_names))
    rarest = int(counts.argmin())
    if counts[rarest] < fold.of:
        n = int(counts[rarest])
        fewer = f"use --folds={n}, or " if n >= 3 else ""
        raise DataError(
            f"{name}: class {class_names[rarest]!r} has {n} image{'' if n == 1 else 's'}, fewer than {fold.of} folds; "
            f"{fewer}add images or remove the class."
        )
    for exact, groups in enumerate(copies):
        assigned = assign(pool.labels, groups, fold.of, seed)
        if len(np.unique(assigned)) < fold.of:  # fewer groups than folds: some would hold nothing out
            continue
        parts = [_validated(pool.labels, groups, assigned != n, val_fraction, seed) for n in range(-1, fold.of)]
        if any(part is None for part in parts):
            continue
        if fold.digest is not None and digest_of(assigned) != fold.digest:
            raise DataError(
                f"{name}: the folds come out differently here than where they were made, as rounding may differ in the "
                "search for near-duplicates; so nobody can say which images this fold trained on."
            )
        val = parts[fold.number]
        assert val is not None
        held_out = assigned == fold.number - 1
        train = ~held_out & ~val
        held_out &= ~val
        return Division(
            np.flatnonzero(train), np.flatnonzero(val), np.flatnonzero(held_out), assigned, groups, bool(exact)
        )
    images = len(np.unique(copies[1]))
    if images < fold.of:
        raise DataError(
            f"{name}: has {images} different images (all others are copies), fewer than {fold.of} folds; add images, "
            "or use fewer folds."
        )
    few = min(range(len(class_names)), key=lambda c: len(np.unique(copies[1][pool.labels == c])))
    different = len(np.unique(copies[1][pool.labels == few]))
    raise DataError(
        f"{name}: class {class_names[few]!r} has {different} different images, too few to train, validate and measure "
        f"in {fold.of} folds; add images, or change the number of folds."
    )


def _validated(
    labels: Labels, groups: Labels, outside: NDArray[np.bool_], fraction: float | None, seed: int
) -> NDArray[np.bool_] | None:
    """Returns which images validate a fold, bool [n]; None if a class would be missing somewhere."""
    if (np.bincount(labels[outside], minlength=int(labels.max()) + 1) == 0).any():
        return None
    if fraction is None:
        return ~outside
    part = set_apart(labels[outside], groups[outside], fraction, seed)
    if part is None:
        return None
    whole = np.zeros(len(labels), np.bool_)
    whole[outside] = part
    return whole
