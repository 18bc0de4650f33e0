"""Figures that say how good a classifier is, from labels and probabilities.

Double precision, in one fixed order of operations: training and evaluation call the same functions on the same numbers
and get the same figures to the last digit. A figure that is not defined is None, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
_Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


def summarize(
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    class_names: Sequence[str],
    split: str,
) -> dict[str, Any]:
    """Computes all figures of one split.

    Args:
        labels: positions in `class_names`, integer [n]; n >= 1. Not every class has to occur.
        probabilities: [n, classes]; rows sum to 1.
        class_names: the classes, in the order of the columns.
        split: the name of the split, passed through.

    Returns:
        What `metrics.json` holds, as plain Python values:
        `split`; `n`, pictures; `accuracy`; `accuracy_ci95`, [low, high]; `macro_f1`, over the classes that occur in
        labels or predictions; `roc_auc_macro`, one against the rest, over the classes for which it is defined;
        `log_loss`, in nats; `ece`; `per_class`, {name: {precision, recall, f1, support}}.
        None stands for what is not defined: the recall of a class without pictures, the precision of a class that was
        never predicted, the ROC AUC where all pictures are of one class, the losses of probabilities with NaN.

    Raises:
        ValueError: the shapes do not fit each other, there are no pictures, or a label is no class.
    """
    labels, probabilities = _checked(labels, probabilities, len(class_names))
    n = len(labels)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(class_names))
    correct = int(matrix.trace())
    per_class = {name: _class_scores(matrix, c) for c, name in enumerate(class_names)}
    f1 = [scores["f1"] for scores in per_class.values() if scores["f1"] is not None]
    auc = [value for value in roc_aucs(labels, probabilities) if value is not None]
    return {
        "split": split,
        "n": n,
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "macro_f1": _mean(f1),
        "roc_auc_macro": _mean(auc),
        "log_loss": log_loss(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "per_class": per_class,
    }


def accuracy(labels: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]]) -> float:
    """Returns the part of the rows (0-1) whose largest score, [n, classes], is at the label, [n]."""
    return float((scores.argmax(axis=1) == labels).mean())


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Returns the 95% interval (low, high) of a proportion, `correct` out of `n`; (0, 1) where n is 0.

    Wilson's score interval (JASA 22, 1927): right also near 0 and 1 and for few pictures, where the normal
    approximation leaves [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = correct / n, _Z95**2
    centre = p + z2 / (2 * n)
    margin = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    # Exact at the ends: rounding would leave 1e-17 at 0 and a 1 that is not quite one.
    low = 0.0 if correct == 0 else (centre - margin) / scale
    high = 1.0 if correct == n else (centre + margin) / scale
    return low, high


def confusion_matrix(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.int64]:
    """Counts pictures by true class (row) and predicted class (column): int64 [classes, classes]."""
    cells = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def roc_aucs(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> list[float | None]:
    """Returns the area under each class's ROC curve, the class against all others.

    None for a class without pictures or with nothing but its own, and where its probabilities hold NaN.
    """
    return [_roc_auc(labels == c, probabilities[:, c]) for c in range(probabilities.shape[1])]


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


def log_loss(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> float | None:
    """Returns the mean negative log of the true class's probability, in nats; None if that is not a number.

    A probability of 0 counts as 2.2e-16 (as in scikit-learn), so that one picture cannot make the mean infinite.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # Written so that -log(1) is 0 and not -0.
    loss = float(np.mean(np.log(1 / np.maximum(true, np.finfo(np.float64).eps))))
    return loss if math.isfinite(loss) else None


def expected_calibration_error(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], bins: int = ECE_BINS
) -> float | None:
    """Returns how far confidence is from accuracy on average, 0 to 1; None if that is not a number.

    Pictures are put in `bins` equally wide bins (lower end excluded) by the probability of the predicted class; the
    result is the mean of |accuracy - mean confidence| over the bins, weighted by their pictures (Guo et al. 2017).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    if not np.isfinite(confidence).all():
        return None
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def _roc_auc(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float | None:
    if positive.all() or not positive.any() or not np.isfinite(scores).all():
        return None
    from sklearn import metrics

    return float(metrics.roc_auc_score(positive, scores))


def _class_scores(matrix: NDArray[np.int64], c: int) -> dict[str, float | int | None]:
    hits, support, predicted = int(matrix[c, c]), int(matrix[c].sum()), int(matrix[:, c].sum())
    return {
        "precision": hits / predicted if predicted else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + predicted) if support + predicted else None,
        "support": support,
    }


def _mean(values: Sequence[float | int]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _checked(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if labels.ndim != 1 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers [n], n >= 1, not {labels.dtype} {list(labels.shape)}")
    if probabilities.shape != (len(labels), classes):
        raise ValueError(f"probabilities must be [{len(labels)}, {classes}], not {list(probabilities.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, not {labels.min()} to {labels.max()}")
    return labels.astype(np.int64), probabilities.astype(np.float64)
