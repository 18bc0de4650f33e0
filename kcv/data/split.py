"""Train, validation and test: what a source brings is used as it is, what it lacks is carved, stratified by class."""

from __future__ import annotations

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
        source: must have a `train` split.
        val_fraction: share of the training pictures (what is left after the test split) that validates, 0-1.
        test_fraction: share of the training pictures set apart as test where the source has none; 0 for no test.
        seed: the same seed and pictures give the same split.

    Returns:
        train, val, test; test is None where the source has none and `test_fraction` is 0.

    Raises:
        DataError: there is no train split, fewer than two classes, or a class that is not in every split.
    """
    if "train" not in source.splits:
        raise DataError(f"{source.name}: has no train split, only {_listed(source)}.")
    if len(source.class_names) < 2:
        only = f"only the class {source.class_names[0]!r}" if source.class_names else "no class"
        raise DataError(f"{source.name}: holds {only}; at least two classes are needed to train.")
    train = source.splits["train"]
    test = source.splits.get("test")
    val = source.splits.get("val")
    for split, part in source.splits.items():
        _require_classes(source, split, part)
    if test is None and test_fraction > 0:
        train, test = _carve(source, train, test_fraction, seed, "test")
    if val is None:
        train, val = _carve(source, train, val_fraction, seed, "val")
    return train, val, test


def _carve(source: Source, samples: Samples, fraction: float, seed: int, split: str) -> tuple[Samples, Samples]:
    """Takes a stratified `fraction` out of `samples`; returns (the rest, what was taken), both in source order."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(samples.labels, minlength=len(source.class_names))
    indices = np.arange(len(samples))
    try:
        rest, taken = train_test_split(
            indices, test_size=fraction, stratify=samples.labels, random_state=seed, shuffle=True
        )
    except ValueError:  # scikit-learn's words name neither the class nor the option
        _refuse(source, counts, int(counts.argmin()), fraction, split)
    for part in (rest, taken):
        missing = np.flatnonzero(np.bincount(samples.labels[part], minlength=len(counts)) == 0)
        if len(missing):
            _refuse(source, counts, int(missing[0]), fraction, split)
    return samples.take(np.sort(rest)), samples.take(np.sort(taken))


def _refuse(source: Source, counts: Labels, position: int, fraction: float, split: str) -> NoReturn:
    n = int(counts[position])
    raise DataError(
        f"{source.name}: class {source.class_names[position]!r} has {n} {'picture' if n == 1 else 'pictures'} to "
        f"train on, too few to be in both train and {split} with {split}_fraction={fraction:g}; "
        f"add pictures, raise {split}_fraction or remove the class."
    )


def _require_classes(source: Source, split: str, samples: Samples) -> None:
    counts = np.bincount(samples.labels, minlength=len(source.class_names))
    missing = [source.class_names[int(i)] for i in np.flatnonzero(counts == 0)]
    if missing:
        kind = "class" if len(missing) == 1 else "classes"
        raise DataError(f"{source.name}: the {split} split has no pictures of the {kind} {listed(missing)}.")


def _listed(source: Source) -> str:
    return ", ".join(source.splits) or "nothing"
