"""How well scores rank the classes, whatever threshold is put on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def roc_aucs(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> list[float | None]:
    """Returns the area under each class's ROC curve, the class against all others.

    None for a class without pictures or with nothing but its own, and where its probabilities hold NaN.
    """
    from sklearn.metrics import roc_auc_score

    return _one_against_the_rest(labels, probabilities, roc_auc_score)


def average_precisions(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> list[float | None]:
    """Returns each class's average precision (the area under its precision-recall curve, as a sum of steps).

    None as in `roc_aucs`.
    """
    from sklearn.metrics import average_precision_score

    return _one_against_the_rest(labels, probabilities, average_precision_score)


def roc_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns (false positive rate, true positive rate) of every threshold, from (0, 0) to (1, 1).

    Args:
        positive: which pictures are of the class, bool [n]; both kinds must occur.
        scores: higher means more likely of the class, [n].
    """
    from sklearn import metrics

    false, true, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    return false, true


def top_k_accuracy(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], k: int) -> float | None:
    """Returns the part of the pictures (0-1) whose class is among the `k` likeliest; None if probabilities hold NaN."""
    if not np.isfinite(probabilities).all():
        return None
    # Stable on the negated scores, as predictions rank: of equal classes the first comes first.
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((ranked == labels[:, None]).any(axis=1).mean())


def _one_against_the_rest(
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    score: Callable[[NDArray[np.bool_], NDArray[np.floating[Any]]], float],
) -> list[float | None]:
    def of(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float | None:
        if positive.all() or not positive.any() or not np.isfinite(scores).all():
            return None
        return float(score(positive, scores))

    return [of(labels == c, probabilities[:, c]) for c in range(probabilities.shape[1])]
