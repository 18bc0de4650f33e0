"""Which classes are taken for which, and what that makes of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(labels: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]]) -> float:
    """Returns the part of the rows (0-1) whose largest score, [n, classes], is at the label, [n]."""
    return float((scores.argmax(axis=1) == labels).mean())


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix by the cells that occur; of very many classes nearly all cells are empty.

    Attributes:
        true: int64 [cells], their rows, ascending.
        predicted: int64 [cells], their columns, ascending within a row.
        counts: int64 [cells], images; none is 0.
        classes: how many there are.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    counts: NDArray[np.int64]
    classes: int

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.integer[Any]]) -> Confusion:
        """Returns the cells of a matrix [classes, classes]."""
        true, predicted = np.nonzero(matrix)
        return cls(true, predicted, matrix[true, predicted].astype(np.int64), len(matrix))

    def matrix(self) -> NDArray[np.int64]:
        """Returns all cells, int64 [classes, classes], true classes in rows."""
        whole = np.zeros((self.classes, self.classes), np.int64)
        whole[self.true, self.predicted] = self.counts
        return whole

    @property
    def support(self) -> NDArray[np.int64]:
        """The images of each true class, int64 [classes]."""
        return np.bincount(self.true, self.counts, self.classes).astype(np.int64)


def confusion(labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int) -> Confusion:
    """Counts images by true and predicted class, where there are any."""
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
    """Returns precision, recall, F1 and support of each class, of all images.

    None stands for what is not defined: the precision of a class that was never predicted, the recall of one that has
    no images, the F1 of one that is neither.
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
    """Returns the most frequent mistakes, the most frequent first.

    Args:
        matrix: counts, int [classes, classes], true classes in rows; or its cells.
        class_names: the classes, in order.
        most: how many at most.

    Returns:
        `true`, `predicted`, `count`, and `share`, the part of the true class (0-1).
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
