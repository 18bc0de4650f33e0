"""Figures that say how good a classifier is, from labels and probabilities.

Double precision, in one fixed order of operations: training and evaluation call the same functions on the same numbers
and get the same figures to the last digit. A figure that is not defined is None, never NaN.
"""

from __future__ import annotations

from kcv.metrics.calibration import brier_score, expected_calibration_error, log_loss, reliability
from kcv.metrics.confusion import Confusion, accuracy, class_scores, confused_pairs, confusion, confusion_matrix
from kcv.metrics.intervals import macro_f1_interval, wilson_interval
from kcv.metrics.ranking import average_precisions, roc_aucs, roc_curve, top_k_accuracy
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
