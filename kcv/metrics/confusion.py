"""Accuracy, confusion matrix, and precision, recall and F1 per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(labels: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]]) -> float:
    """Returns the fraction of rows (0-1) in which the largest score, [n, classes], is that of the label, [n]."""
    return float((scores.argmax(axis=1) == labels).mean())


@dataclass(frozen=True)
class Confusion:
    """A sparse confusion matrix: with many classes, nearly all cells are empty.

    Attributes:
        true: rows of the non-empty cells, int64 [cells], ascending.
        predicted: their columns, int64 [cells], ascending within a row.
        counts: their numbers of images, int64 [cells], all positive.
        classes: number of classes.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    counts: NDArray[np.int64]
    classes: int

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.integer[Any]]) -> Confusion:
        """Returns the sparse form of a matrix [classes, classes]."""
        true, predicted = np.nonzero(matrix)
        return cls(true, predicted, matrix[true, predicted].astype(np.int64), len(matrix))

    def matrix(self) -> NDArray[np.int64]:
        """Returns the full matrix, int64 [classes, classes], with true classes in rows."""
        whole = np.zeros((self.classes, self.classes), np.int64)
        whole[self.true, self.predicted] = self.counts
        return whole

    @property
    def support(self) -> NDArray[np.int64]:
        """The number of images per true class, int64 [classes]."""
        return np.bincount(self.true, self.counts, self.classes).astype(np.int64)


def confusion(labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int) -> Confusion:
    """Counts images by true and predicted class; keeps only the non-empty cells."""
    cells, counts = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
    return Confusion(cells // classes, cells % classes, counts.astype(np.int64), classes)


def confusion_matrix(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.int64]:
    """Counts images by true class (row) and predicted class (column): int64 [classes, classes]."""
    from sklearn import metrics

    matrix: NDArray[np.int64] = metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))
    return matrix.astype(np.int64)


def class_scores(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> list[dict[str, float | int | None]]:
    """Returns precision, recall, F1 and support per class.

    None marks undefined values: the precision of a class that was never predicted, the recall of a class without
    images, and the F1 of a class to which both apply.
    """
    from sklearn import metrics

    columns = metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average=None, zero_division=np.nan
    )
    return [
        {"precision": _defined(precision), "recall": _defined(recall), "f1": _defined(f1), "support": int(support)}
        for precision, recall, f1, support in zip(*columns, strict=True)
    ]


def confused_pairs(
    matrix: NDArray[np.int64] | Confusion, class_names: Sequence[str], most: int = 10
) -> list[dict[str, Any]]:
    """Returns the most frequent confusions in descending order.

    Args:
        matrix: counts, int [classes, classes], with true classes in rows; or its sparse form.
        class_names: class names in order.
        most: largest number of pairs returned.

    Returns:
        `true`, `predicted`, `count`, and `share`, the fraction of the true class (0-1).
    """
    cells = matrix if isinstance(matrix, Confusion) else Confusion.of_matrix(matrix)
    wrong = np.flatnonzero(cells.true != cells.predicted)
    worst = wrong[np.argsort(-cells.counts[wrong], kind="stable")[:most]]
    support = cells.support
    return [
        {
            "true": class_names[cells.true[i]],
            "predicted": class_names[cells.predicted[i]],
            "count": int(cells.counts[i]),
            "share": float(cells.counts[i] / support[cells.true[i]]),
        }
        for i in worst
    ]


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
