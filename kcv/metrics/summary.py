"""All metrics of one split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.conformal import PredictionSets, measure_sets
from kcv.metrics.scores import (
    areas_and_precisions,
    brier_score,
    class_scores,
    confused_pairs,
    confusion,
    expected_calibration_error,
    log_loss,
    reliability,
    top_k_accuracy,
)
from kcv.metrics.significance import macro_f1_interval, wilson_interval

_TOP_K = (2, 3, 5)


def summarize(
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    class_names: Sequence[str],
    split: str,
    *,
    threshold: float | None = None,
    sets: PredictionSets | None = None,
) -> dict[str, Any]:
    """Computes all metrics of one split.

    Args:
        labels: positions in `class_names`, integer [n]; n >= 1. Not every class has to occur.
        probabilities: [n, classes]; rows sum to 1.
        class_names: class names in the order of the columns.
        split: the name of the split, copied to the result.
        threshold: the confidence (0-1) below which the model abstains; None if it never does.
        sets: which classes belong to a prediction set; None if the model has none.

    Returns:
        The content of `metrics.json`, as plain Python values:
        `split`; `n`, the number of images; `accuracy` and `accuracy_ci95`, [low, high]; `balanced_accuracy`, the mean
        recall of the classes that occur (scikit-learn's `balanced_accuracy_score`); `macro_f1`, over the classes
        that occur in labels or predictions, and `macro_f1_ci95`; `top_k_accuracy`, {k: fraction of images}, for those
        of 2, 3 and 5 that are below the number of classes; `roc_auc_macro` and `average_precision_macro`, one class
        against the rest, over the classes for which they are defined; `log_loss`, in nats; `brier`, 0 to 2; `ece`, and
        `reliability`, its bins; `confused_pairs`, the most frequent confusions; `per_class`, {name: {precision, recall,
        f1, support, roc_auc, average_precision, predicted}}, with the images of a class (`support`) and those predicted
        as it; with a threshold `abstention`, as returned by `abstention`; and with sets `prediction_sets`, as returned
        by `kcv.metrics.conformal.measure_sets`. None marks undefined values: the recall
        of a class without images, the precision of a class that was never predicted, the ROC AUC if all images belong
        to one class, and the losses of probabilities that contain NaN.

    Raises:
        ValueError: the shapes do not match, there are no images, or a label is out of range.
    """
    labels, probabilities = _checked(labels, probabilities, len(class_names))
    n, classes = len(labels), len(class_names)
    predicted = probabilities.argmax(axis=1)
    cells = confusion(labels, predicted, classes)
    correct = int((predicted == labels).sum())
    scores = class_scores(labels, predicted, classes)
    areas, precisions = areas_and_precisions(labels, probabilities)
    figures = {
        "split": split,
        "n": n,
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "balanced_accuracy": _mean([row["recall"] for row in scores]),
        "macro_f1": _mean([row["f1"] for row in scores]),
        "macro_f1_ci95": list(macro_f1_interval(cells)),
        "top_k_accuracy": {str(k): top_k_accuracy(labels, probabilities, k) for k in _TOP_K if k < classes},
        "roc_auc_macro": _mean(areas),
        "average_precision_macro": _mean(precisions),
        "log_loss": log_loss(labels, probabilities),
        "brier": brier_score(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "reliability": reliability(labels, probabilities),
        "confused_pairs": confused_pairs(cells, class_names),
        "per_class": {
            name: {**row, "roc_auc": area, "average_precision": precision, "predicted": int(count)}
            for name, row, area, precision, count in zip(
                class_names, scores, areas, precisions, np.bincount(predicted, minlength=classes), strict=True
            )
        },
    }
    if threshold is not None:
        figures["abstention"] = abstention(labels, probabilities, threshold)
    if sets is not None:
        figures["prediction_sets"] = measure_sets(sets, labels, probabilities, class_names)
    return figures


def abstention(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], threshold: float
) -> dict[str, Any]:
    """Returns the metrics of a model that abstains when its confidence is below a threshold.

    Returns:
        `threshold`; `coverage`, the fraction of images that get an answer; `precision`, the fraction of answers that
        are right, and `precision_ci95`, [low, high]. The last two are None and [0, 1] if there are no answers.
    """
    answered = probabilities.max(axis=1) >= threshold
    right, n = int((probabilities.argmax(axis=1) == labels)[answered].sum()), int(answered.sum())
    return {
        "threshold": threshold,
        "coverage": n / len(labels),
        "precision": right / n if n else None,
        "precision_ci95": list(wilson_interval(right, n)),
    }


def _mean(values: Sequence[float | int | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _checked(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if labels.ndim != 1 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers [n], n >= 1, not {labels.dtype} {list(labels.shape)}")
    if probabilities.shape != (len(labels), classes):
        raise ValueError(f"probabilities must be [{len(labels)}, {classes}], not {list(probabilities.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, not {labels.min()} to {labels.max()}")
    return labels.astype(np.int64), probabilities.astype(np.float64, copy=False)
