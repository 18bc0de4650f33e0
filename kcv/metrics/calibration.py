"""Log loss, Brier score and calibration error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.intervals import row_blocks

ECE_BINS = 15


def log_loss(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> float | None:
    """Returns the mean negative log of the true class's probability, in nats; None if it is not finite.

    A probability of 0 counts as 2.2e-16 (as in scikit-learn), so that one image cannot make the mean infinite.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # log(1 / p) is exactly 0 for p = 1, unlike -log(p), which is -0, and scikit-learn's clipping at 1 - 2.2e-16.
    loss = float(np.mean(np.log(1 / np.maximum(true, np.finfo(np.float64).eps))))
    return loss if math.isfinite(loss) else None


def brier_score(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> float | None:
    """Returns the mean squared distance between probabilities and one-hot labels, 0 to 2; None if it is not finite.

    Brier's original form (Monthly Weather Review 78, 1950): a sum over all classes, even if there are only two.
    """
    # scikit-learn supports several classes only from version 1.7.
    sums = []
    for rows in row_blocks(*probabilities.shape):
        distance = probabilities[rows].astype(np.float64)
        distance[np.arange(len(distance)), labels[rows]] -= 1
        sums.append(np.sum(distance**2, axis=1))
    score = float(np.mean(np.concatenate(sums)))
    return score if math.isfinite(score) else None


def reliability(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], bins: int = ECE_BINS
) -> list[dict[str, float | int | None]]:
    """Groups images into equally wide bins by confidence, the probability of the predicted class.

    Args:
        labels: integer [n].
        probabilities: [n, classes].
        bins: number of bins; each excludes its lower end.

    Returns:
        Per bin: `low` and `high`, its ends; `n`, the number of images; their mean `confidence` and their `accuracy`
        (both 0-1, None without images). The list is empty if the probabilities contain NaN.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    if not np.isfinite(confidence).all():
        return []
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, right)]
    return [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "n": int(counts[i]),
            "confidence": float(sums[0][i] / counts[i]) if counts[i] else None,
            "accuracy": float(sums[1][i] / counts[i]) if counts[i] else None,
        }
        for i in range(bins)
    ]


def expected_calibration_error(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], bins: int = ECE_BINS
) -> float | None:
    """Returns the expected calibration error, 0 to 1; None if the probabilities contain NaN.

    The mean of |accuracy - mean confidence| over the bins of `reliability`, weighted by their number of images (Guo et
    al., On Calibration of Modern Neural Networks, ICML 2017).
    """
    filled = [row for row in reliability(labels, probabilities, bins) if row["n"]]
    if not filled:
        return None
    gaps = [(row["n"] or 0) * abs((row["accuracy"] or 0.0) - (row["confidence"] or 0.0)) for row in filled]
    return math.fsum(gaps) / len(labels)
