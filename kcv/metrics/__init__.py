"""Metrics of a classifier, computed from labels and probabilities.

All metrics use double precision and a fixed order of operations, so that training and evaluation get bit-for-bit equal
results from the same numbers. An undefined metric is None, never NaN.
"""

from __future__ import annotations

from kcv.metrics.scores import (
    Confusion,
    accuracy,
    average_precisions,
    brier_score,
    class_scores,
    confused_pairs,
    confusion,
    confusion_matrix,
    expected_calibration_error,
    log_loss,
    reliability,
    roc_aucs,
    roc_curve,
    top_k_accuracy,
)
from kcv.metrics.significance import macro_f1_interval, wilson_interval
from kcv.metrics.summary import abstention, summarize

__all__ = [
    "Confusion",
    "abstention",
    "accuracy",
    "average_precisions",
    "brier_score",
    "class_scores",
    "confused_pairs",
    "confusion",
    "confusion_matrix",
    "expected_calibration_error",
    "log_loss",
    "macro_f1_interval",
    "reliability",
    "roc_aucs",
    "roc_curve",
    "summarize",
    "top_k_accuracy",
    "wilson_interval",
]
