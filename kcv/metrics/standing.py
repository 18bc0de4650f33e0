"""Which of two epochs is the better one: the one comparison of all that choose."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TypeAlias

Standing: TypeAlias = tuple[float, float]
"""The monitor and then the validation loss, each such that higher is better."""

UNKNOWN = -sys.float_info.max
"""The second part where there is no loss: worse than any. (Not infinite, so that JSON can hold it.)"""


def higher_is_better(monitor: str) -> bool:
    """Whether a figure is, by its name, an accuracy and not a loss."""
    return monitor.endswith("accuracy")


def standing(
    figures: Mapping[str, float], monitor: str = "val_accuracy", *, higher: bool | None = None
) -> Standing | None:
    """Returns what an epoch is compared by; the higher one is better, and of equals the later one is to be kept.

    Where the monitor is equal, as accuracies on few images often are, the lower validation loss decides: it still
    tells how sure the model is of what it gets right.

    Args:
        figures: of the epoch, with the columns of `history.csv`.
        monitor: which of them decides first.
        higher: whether a higher monitor is better; None: as its name says.

    Returns:
        None where one of the two is not finite: such an epoch is never the better one.

    Example:
        >>> standing({"val_accuracy": 0.9, "val_loss": 0.3}) > standing({"val_accuracy": 0.9, "val_loss": 0.4})
        True
    """
    value = float(figures[monitor])
    loss = -float(figures["val_loss"]) if "val_loss" in figures else UNKNOWN
    if not (math.isfinite(value) and math.isfinite(loss)):
        return None
    return (value if (higher_is_better(monitor) if higher is None else higher) else -value, loss)
