"""Out-of-fold predictions: each image as classified by the model that was trained without its fold."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.files import escape_formula, write_csv
from kcv.common.untrusted import read_bytes, refusing
from kcv.data.dataset import Labels
from kcv.errors import DataError

FILE: Final = "out_of_fold.csv"
COLUMNS: Final = ("path", "fold", "group", "label", "predicted", "confidence")
_PROBABILITY: Final = "probability of "
_MOST_BYTES: Final = 2**31


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of all images that were divided into folds, in the order of `kcv.quality.copies.folds.pool_of`.

    Attributes:
        names: the name of each image.
        labels: its class, int64 [n], positions in `class_names`.
        folds: the fold that held it out, int64 [n], from 1.
        groups: its group, int64 [n]; images of a group are near-duplicates.
        probabilities: float64 [n, classes], by the calibration of the fold's model.
        class_names: the classes, in order.
    """

    names: Sequence[str]
    labels: Labels
    folds: Labels
    groups: Labels
    probabilities: NDArray[np.float64]
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> Labels:
        """The predicted class of each image, int64 [n]."""
        found: Labels = self.probabilities.argmax(axis=1)
        return found

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image is classified as its label, bool [n]."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right

    def write(self, path: Path) -> None:
        """Writes the file: one row per image, with `COLUMNS` and a column `probability of CLASS` per class.

        Raises:
            OutputError: it cannot be written.
        """
        header = [*COLUMNS, *(f"{_PROBABILITY}{name}" for name in self.class_names)]
        predicted, confidence = self.predicted, self.probabilities.max(axis=1)
        rows = (
            [name, fold, group, self.class_names[label], self.class_names[likeliest], sure, *scores.tolist()]
            for name, fold, group, label, likeliest, sure, scores in zip(
                self.names, self.folds.tolist(), self.groups.tolist(), self.labels.tolist(), predicted.tolist(),
                confidence.tolist(), self.probabilities, strict=True,
            )
        )  # fmt: skip
        write_csv(path, header, rows)

    @classmethod
    def read(cls, path: Path, names: Sequence[str], labels: Labels, class_names: tuple[str, ...]) -> OutOfFold:
        """Reads the file for data that are known.

        Args:
            path: the file; anybody may have written it.
            names: the name of each image, as `pool_of` returns it.
            labels: its class, int64 [n].
            class_names: the classes, in order.

        Raises:
            DataError: it is missing or damaged, or is of other images or classes.
        """
        content = read_bytes(path, min(_MOST_BYTES, 4096 * (len(names) + 1) * (len(class_names) + 4)), DataError)
        with refusing(path, DataError, "is no table of out-of-fold predictions"):
            rows = csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape")), strict=True)
            if next(rows) != [*COLUMNS, *(f"{_PROBABILITY}{name}" for name in class_names)]:
                raise DataError(f"{path}: is of other classes than the data")
            body = list(rows)
            if len(body) != len(names):
                raise DataError(f"{path}: is of {len(body):,} images, and the data are {len(names):,}")
            for row, name, label in zip(body, names, labels.tolist(), strict=True):
                if row[0] != _as_written(name) or row[3] != _as_written(class_names[label]):
                    raise DataError(f"{path}: is of other images than the data, or of other labels")
            folds, groups = (np.array([int(row[column]) for row in body], np.int64) for column in (1, 2))
            scores = np.array([[float(value) for value in row[len(COLUMNS) :]] for row in body], np.float64)
        if scores.shape != (len(names), len(class_names)) or not _are_probabilities(scores):
            raise DataError(f"{path}: is damaged: holds numbers that are no probabilities")
        return cls(names, labels, folds, groups, scores, class_names)


def is_folder(folder: Path) -> bool:
    """Returns whether a folder holds out-of-fold predictions."""
    return os.path.isfile(folder / FILE)


def _as_written(text: str) -> str:
    """Returns a text as it is in the file; see `kcv.common.files.write_csv`."""
    return str(escape_formula(text)).encode(errors="backslashreplace").decode()


def _are_probabilities(scores: NDArray[np.float64]) -> bool:
    # Written so that NaN fails.
    return bool(((scores >= 0) & (scores <= 1)).all() and (np.abs(scores.sum(axis=1) - 1) <= 1e-6).all())
