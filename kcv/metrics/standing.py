"""Compares two epochs. All code that selects the best epoch uses this comparison."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TypeAlias

Standing: TypeAlias = tuple[float, float]
"""The monitor and the validation loss, each with a sign such that higher is better."""

UNKNOWN = -sys.float_info.max
"""Stands for a missing loss and is worse than any loss. (It is finite so that JSON can store it.)"""


def higher_is_better(monitor: str) -> bool:
    """Returns whether a metric is an accuracy, judging by its name."""
    return monitor.endswith("accuracy")


def standing(
    figures: Mapping[str, float], monitor: str = "val_accuracy", *, higher: bool | None = None
) -> Standing | None:
    """Returns the key by which epochs are compared. The higher one is better; of equal epochs, keep the later one.

    If the monitor is equal, as accuracies on few images often are, the lower validation loss decides, because it also
    reflects the confidence of the model in its correct answers.

    Args:
        figures: metrics of the epoch, with the columns of `history.csv` as keys.
        monitor: the metric that decides first.
        higher: whether a higher monitor is better; None: derived from its name.

    Returns:
        The key, or None if either value is not finite; such an epoch is never the better one.

    Example:
        >>> standing({"val_accuracy": 0.9, "val_loss": 0.3}) > standing({"val_accuracy": 0.9, "val_loss": 0.4})
        True
    """
    value = float(figures[monitor])
    loss = -float(figures["val_loss"]) if "val_loss" in figures else UNKNOWN
    if not (math.isfinite(value) and math.isfinite(loss)):
        return None
    return (value if (higher_is_better(monitor) if higher is None else higher) else -value, loss)
