"""Checks `data.class_weights`: a word, or a weight for each class that is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

WEIGHTINGS: Final = ("none", "balanced", "sqrt")
ALLOWED_WEIGHTS: Final = (
    "'none', 'balanced', 'sqrt', or up to 1,000 class names with weights greater than 0, such as '{cat: 3, dog: 0.5}'"
)

_MOST_NAMED: Final = 1_000
"""A configuration is part of every model file, which holds no more than 2,000 values of it."""
_MOST_WEIGHT: Final = 1e6


def as_class_weights(value: Any) -> str | dict[str, float]:
    """Returns a weighting as it is, and named weights as text and numbers.

    Args:
        value: a word, a mapping, or a mapping as typed on a command line. Names that YAML takes for numbers are text.

    Raises:
        ValueError: it is neither, or a weight is not a number greater than 0.
    """
    if isinstance(value, str):
        if value in WEIGHTINGS:
            return value
        from kcv.config.yaml12 import parse_mapping

        value = parse_mapping(value)
    if not isinstance(value, Mapping) or not 0 < len(value) <= _MOST_NAMED:
        raise ValueError("is no weighting")
    weights = {str(name): _weight(weight) for name, weight in value.items() if _is_name(name)}
    if len(weights) < len(value):
        raise ValueError("a name is no text, or stands there twice")
    return weights


def _is_name(name: Any) -> bool:
    return isinstance(name, str | int) and not isinstance(name, bool)


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_WEIGHT:
        raise ValueError("a weight is no number greater than 0")
    if not math.isfinite(value):
        raise ValueError("a weight is not finite")
    return float(value)
