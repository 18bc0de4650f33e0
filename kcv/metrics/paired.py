"""Tests whether two classifiers differ significantly on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.intervals import Z95

LEVEL = 0.05
"""The significance level: a p-value below it counts as a difference."""


@dataclass(frozen=True)
class Pair:
    """Two models on the same images.

    Attributes:
        first: name of the first model.
        second: name of the second model.
        both: number of images that both classified correctly.
        only_first: number of images that only the first classified correctly.
        only_second: number of images that only the second classified correctly.
        neither: number of images that both misclassified.
        p_value: p-value of McNemar's test, corrected for the number of comparisons (Holm).
    """

    first: str
    second: str
    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float

    @property
    def difference(self) -> float:
        """The accuracy of the first minus that of the second, in percentage points."""
        return 100 * (self.only_first - self.only_second) / self._n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the difference, in percentage points.

        Wald's interval with half an image added to each cell (Agresti and Min, Statistics in Medicine 24, 2005).
        """
        a, b, n = self.only_first + 0.5, self.only_second + 0.5, self._n + 2
        middle = (a - b) / n
        margin = Z95 * math.sqrt(max(0.0, a + b - (a - b) ** 2 / n)) / n
        return 100 * max(-1.0, middle - margin), 100 * min(1.0, middle + margin)

    @property
    def _n(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    def words(self) -> str:
        """Returns the outcome as a sentence."""
        low, high = self.interval
        told = f"{self.difference:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}, p = {_p(self.p_value)}"
        if self.p_value >= LEVEL:
            return f"{self.first} and {self.second} do not differ beyond chance ({told})"
        better, worse = (self.first, self.second) if self.difference > 0 else (self.second, self.first)
        return f"{better} is better than {worse} ({self.first} less {self.second}: {told})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values."""
        counts = {"both": self.both, "only_first": self.only_first, "only_second": self.only_second}
        return {
            "first": self.first, "second": self.second, **counts, "neither": self.neither,
            "difference_points": self.difference, "difference_ci95_points": list(self.interval),
            "p_value": self.p_value, "differ": self.p_value < LEVEL,
        }  # fmt: skip


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test (Psychometrika 12, 1947) from the discordant counts."""
    from scipy.stats import binomtest

    n = only_first + only_second
    return float(binomtest(only_first, n, 0.5).pvalue) if n else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for multiple comparisons (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = highest
    return corrected


def pairs(right: dict[str, NDArray[np.bool_]]) -> list[Pair]:
    """Compares all pairs of models.

    Args:
        right: by model name, whether each image was classified correctly, bool [n]; the same images in the same order.
    """
    names = list(right)
    couples = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    counts = [
        (int((right[a] & right[b]).sum()), int((right[a] & ~right[b]).sum()), int((~right[a] & right[b]).sum()))
        for a, b in couples
    ]
    p_values = holm([mcnemar(only_a, only_b) for _, only_a, only_b in counts])
    return [
        Pair(a, b, both, only_a, only_b, len(right[a]) - both - only_a - only_b, p)
        for (a, b), (both, only_a, only_b), p in zip(couples, counts, p_values, strict=True)
    ]


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"
