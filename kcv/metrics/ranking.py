"""ROC curves and AUC, average precision and top-k accuracy: metrics of ranking, independent of a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.intervals import row_blocks

_FEW = 8  # up to this many images of a class, counting is faster than sorting


def roc_aucs(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> list[float | None]:
    """Returns the area under the ROC curve per class, the class against all others.

    None for a class with no images or all images, and for one whose probabilities contain NaN.
    """
    return areas_and_precisions(labels, probabilities)[0]


def average_precisions(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> list[float | None]:
    """Returns the average precision per class (the area under its precision-recall curve, as a sum of steps).

    None in the same cases as in `roc_aucs`.
    """
    return areas_and_precisions(labels, probabilities)[1]


def areas_and_precisions(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> tuple[list[float | None], list[float | None]]:
    """Returns the results of `roc_aucs` and `average_precisions`, which need the same counts.

    scikit-learn computes them from whole curves, one class at a time, which takes minutes with thousands of classes.
    Here, only the images of the class are ranked among all images.
    """
    n, classes = probabilities.shape
    areas: list[float | None] = [None] * classes
    precisions: list[float | None] = [None] * classes
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    for block in row_blocks(classes, n):
        columns = np.ascontiguousarray(probabilities[:, block].T)
        finite = np.logical_and.reduce(np.isfinite(columns), axis=1)
        for c, scores, sound in zip(range(block.start, block.stop), columns, finite, strict=True):
            mine = by_class[(ends[c - 1] if c else 0) : ends[c]]
            if sound and 0 < len(mine) < n:
                areas[c], precisions[c] = _ranked(np.sort(scores[mine]), scores)
    return areas, precisions


def _ranked(positive: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Returns ROC AUC and average precision from the sorted scores of the class's images and all scores."""
    p, n = len(positive), len(scores)
    if p <= _FEW:
        below = np.array([np.count_nonzero(scores < score) for score in positive])
        upto = np.array([np.count_nonzero(scores <= score) for score in positive])
    else:
        ranked = np.sort(scores)
        below = np.searchsorted(ranked, positive, side="left")
        upto = np.searchsorted(ranked, positive, side="right")
    own_below = np.searchsorted(positive, positive, side="left")
    own_upto = np.searchsorted(positive, positive, side="right")
    # Twice the number of other images with a lower score, plus the number of those with the same score.
    won = (below - own_below) + (upto - own_upto)
    area = float(won.sum()) / (2 * p * (n - p))
    return area, float(np.mean((p - own_below) / (n - below)))


def roc_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns (false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1).

    Args:
        positive: whether each image belongs to the class, bool [n]; both values must occur.
        scores: scores, [n]; higher means more likely to belong to the class.
    """
    from sklearn import metrics

    false, true, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    return false, true


def top_k_accuracy(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], k: int) -> float | None:
    """Returns the fraction of images (0-1) with their class among the `k` most likely; None if there is any NaN."""
    if not np.isfinite(probabilities).all():
        return None
    # Classes of equal probability are ranked by position, as in predictions.
    hits = 0
    before = np.arange(probabilities.shape[1])
    for rows in row_blocks(*probabilities.shape):
        part, mine = probabilities[rows], labels[rows, None]
        own = np.take_along_axis(part, mine, axis=1)
        ahead = (part > own).sum(axis=1) + ((part == own) & (before < mine)).sum(axis=1)
        hits += int((ahead < k).sum())
    return hits / len(labels)
