"""Train, validation and test splits: those of the source are used; missing ones are taken from train, stratified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from kcv.data.classes import listed
from kcv.data.dataset import Labels, Samples, Source
from kcv.errors import DataError


def three_way(
    source: Source, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Samples, Samples, Samples | None]:
    """Splits a source for training.

    Args:
        source: the source; must have a `train` split.
        val_fraction: fraction (0-1) of the training images, after the test split is taken, used for validation.
        test_fraction: fraction of the training images used for testing if the source has no test split; 0 for none.
        seed: the same seed and images give the same split.

    Returns:
        train, val, test; test is None if the source has none and `test_fraction` is 0.

    Raises:
        DataError: there is no train split, fewer than two classes, or a class is missing from a split.
    """
    require_trainable(source)
    train = source.splits["train"]
    test = source.splits.get("test")
    val = source.splits.get("val")
    for split, part in source.splits.items():
        _require_classes(source, split, part)
    wanted = {"test": test_fraction} if test is None and test_fraction > 0 else {}
    if val is None:
        wanted["val"] = val_fraction
    if wanted:
        taken, train = _carve(source, train, wanted, seed)
        test = taken.get("test", test)
        val = taken.get("val", val)
    assert val is not None
    return train, val, test


def require_trainable(source: Source) -> None:
    """Refuses a source without a train split, or with fewer than two classes.

    Raises:
        DataError: the message says which.
    """
    if "train" not in source.splits:
        raise DataError(f"{source.name}: has no train split, only {_listed(source)}.")
    if len(source.class_names) < 2:
        only = f"only the class {source.class_names[0]!r}" if source.class_names else "no class"
        hint = "".join(
            f" {note[0].upper()}{note[1:]}." for note in (source.understood.notes if source.understood else ())
        )
        raise DataError(f"{source.name}: holds {only}; at least two classes are needed to train.{hint}")


def _carve(
    source: Source, samples: Samples, wanted: Mapping[str, float], seed: int
) -> tuple[dict[str, Samples], Samples]:
    """Takes stratified parts out of `samples` in turn; returns them and the rest, all in source order.

    If possible, scikit-learn makes the split, as in runs of earlier versions; otherwise each class contributes at least
    one image to each part.
    """
    parts = _proportional(samples.labels, wanted, seed)
    if parts is None:
        counts = np.bincount(samples.labels, minlength=len(source.class_names))
        if counts.min() <= len(wanted):
            _refuse(source, counts, int(counts.argmin()), ["train", *wanted])
        parts = _at_least_one(samples.labels, wanted, seed)
    rest = np.setdiff1d(np.arange(len(samples)), np.concatenate(list(parts.values())), assume_unique=True)
    return {split: samples.take(part) for split, part in parts.items()}, samples.take(rest)


def _proportional(labels: Labels, wanted: Mapping[str, float], seed: int) -> dict[str, Labels] | None:
    """Returns the positions that scikit-learn takes for each part, ascending; None if a class would miss a part."""
    from sklearn.model_selection import train_test_split

    classes = len(np.unique(labels))
    parts: dict[str, Labels] = {}
    rest = np.arange(len(labels))
    for split, fraction in wanted.items():
        try:
            rest, taken = train_test_split(
                rest, test_size=fraction, stratify=labels[rest], random_state=seed, shuffle=True
            )
        except ValueError:  # too few images of a class, or fewer in the part than classes
            return None
        rest = np.sort(rest)
        parts[split] = np.sort(taken)
        if min(len(np.unique(labels[part])) for part in (rest, taken)) < classes:
            return None
    return parts


def _at_least_one(labels: Labels, wanted: Mapping[str, float], seed: int) -> dict[str, Labels]:
    """Returns the positions of each part, ascending: a fraction of each class, at least one image; train keeps one."""
    # NumPy guarantees that these numbers never change, unlike those of its newer generators.
    order = np.random.RandomState(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    left = np.bincount(labels)
    begins = np.cumsum(left) - left
    within = np.arange(len(order)) - begins[labels[order]]
    first = np.zeros_like(left)
    parts: dict[str, Labels] = {}
    for number, (split, fraction) in enumerate(wanted.items(), start=1):
        reserved = 1 + len(wanted) - number  # for train, and for the parts that follow
        taken = np.clip(np.floor(left * fraction + 0.5).astype(np.int64), 1, np.maximum(left - reserved, 1))
        mine = (within >= first[labels[order]]) & (within < (first + taken)[labels[order]])
        parts[split] = np.sort(order[mine])
        first, left = first + taken, left - taken
    return parts


def _refuse(source: Source, counts: Labels, position: int, splits: Sequence[str]) -> NoReturn:
    n = int(counts[position])
    raise DataError(
        f"{source.name}: class {source.class_names[position]!r} has {n} {'image' if n == 1 else 'images'} to "
        f"train on, too few to be in {', '.join(splits[:-1])} and {splits[-1]}; add images or remove the class"
        f"{', or do without a test split (test_fraction=0)' if 'test' in splits and n == len(splits) - 1 else ''}."
    )


def _require_classes(source: Source, split: str, samples: Samples) -> None:
    counts = np.bincount(samples.labels, minlength=len(source.class_names))
    missing = [source.class_names[int(i)] for i in np.flatnonzero(counts == 0)]
    if missing:
        kind = "class" if len(missing) == 1 else "classes"
        raise DataError(f"{source.name}: the {split} split has no images of the {kind} {listed(missing)}.")


def _listed(source: Source) -> str:
    return ", ".join(source.splits) or "nothing"
