"""Which classes are taken for which, and what that makes of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(labels: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]]) -> float:
    """Returns the part of the rows (0-1) whose largest score, [n, classes], is at the label, [n]."""
    return float((scores.argmax(axis=1) == labels).mean())


def confusion_matrix(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.int64]:
    """Counts pictures by true class (row) and predicted class (column): int64 [classes, classes]."""
    from sklearn import metrics

    matrix: NDArray[np.int64] = metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))
    return matrix.astype(np.int64)


def class_scores(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> list[dict[str, float | int | None]]:
    """Returns precision, recall, F1 and support of each class, of all pictures.

    None stands for what is not defined: the precision of a class that was never predicted, the recall of one that has
    no pictures, the F1 of one that is neither.
    """
    from sklearn import metrics

    columns = metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average=None, zero_division=np.nan
    )
    return [
        {"precision": _defined(precision), "recall": _defined(recall), "f1": _defined(f1), "support": int(support)}
        for precision, recall, f1, support in zip(*columns, strict=True)
    ]


def confused_pairs(matrix: NDArray[np.int64], class_names: Sequence[str], most: int = 10) -> list[dict[str, Any]]:
    """Returns the most frequent mistakes, the most frequent first.

    Args:
        matrix: counts, int [classes, classes], true classes in rows.
        class_names: the classes, in order.
        most: how many at most.

    Returns:
        `true`, `predicted`, `count`, and `share`, the part of the true class (0-1).
    """
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(position), len(matrix)) for position in order if wrong.flat[position] > 0]
    return [
        {
            "true": class_names[row],
            "predicted": class_names[column],
            "count": int(matrix[row, column]),
            "share": float(matrix[row, column] / matrix[row].sum()),
        }
        for row, column in cells
    ]


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
