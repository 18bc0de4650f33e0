"""95% confidence intervals, and tests whether two classifiers differ on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.scores import Confusion

Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile
_RESAMPLES = 1000
_MOST_COUNTS = 10_000_000  # resampled cells in memory at once


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Returns the 95% interval (low, high) of a proportion, `correct` out of `n`; (0, 1) if n is 0.

    Wilson's score interval (JASA 22, 1927). It is also valid near 0 and 1 and for few images, where the normal
    approximation leaves [0, 1].
    """
    return wilson_of_fraction(correct / n, n) if n else (0.0, 1.0)


def wilson_of_fraction(p: float, n: float) -> tuple[float, float]:
    """Returns Wilson's 95% interval (low, high) of a fraction `p` of `n` independent cases, which may be no integer."""
    z2 = Z95**2
    centre = p + z2 / (2 * n)
    margin = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    # Exact at the ends: rounding would give 1e-17 instead of 0, and slightly less than 1 instead of 1.
    low = 0.0 if p == 0 else (centre - margin) / scale
    high = 1.0 if p == 1 else (centre + margin) / scale
    return low, high


def macro_f1_interval(matrix: NDArray[np.integer[Any]] | Confusion) -> tuple[float, float]:
    """Returns the 95% interval (low, high) of macro F1, from counts of images by true and predicted class.

    Percentiles of 1,000 bootstrap samples of the images (Efron 1979), drawn with a fixed seed. If all images are right,
    or all are wrong, the samples have no spread; the result is then Wilson's interval of the accuracy.
    """
    cells = matrix if isinstance(matrix, Confusion) else Confusion.of_matrix(matrix)
    right = cells.true == cells.predicted
    n, correct = int(cells.counts.sum()), int(cells.counts[right].sum())
    if correct in (0, n):
        return wilson_interval(correct, n)
    parts = cells.counts / n
    # Renumber the classes that occur, so that the others take no rows.
    occurring, places = np.unique(np.concatenate([cells.true, cells.predicted]), return_inverse=True)
    true, predicted = np.split(places, 2)
    rng = np.random.default_rng(0)
    scores: list[NDArray[np.float64]] = []
    step = max(1, _MOST_COUNTS // max(len(parts), len(occurring)))
    for start in range(0, _RESAMPLES, step):
        counts = rng.multinomial(n, parts, size=min(step, _RESAMPLES - start))
        scores.append(_macro_f1(counts, true, predicted, right, len(occurring)))
    low, high = np.quantile(np.concatenate(scores), [0.025, 0.975])
    return float(low), float(high)


def _macro_f1(
    counts: NDArray[np.int64],
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    right: NDArray[np.bool_],
    classes: int,
) -> NDArray[np.float64]:
    """Returns macro F1 per resample, [resamples], from the counts of the non-empty cells, [resamples, cells]."""
    hits = np.zeros((classes, len(counts)))
    hits[true[right]] = counts[:, right].T  # a class has one cell on the diagonal
    both = np.zeros((classes, len(counts)))
    np.add.at(both, true, counts.T)
    np.add.at(both, predicted, counts.T)
    occurs = both > 0
    f1 = np.divide(2 * hits, both, out=np.zeros_like(hits), where=occurs)
    scores: NDArray[np.float64] = f1.sum(axis=0) / occurs.sum(axis=0)
    return scores


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
    return matched_pairs([(a, b, right[a], right[b]) for a, b in couples])


def matched_pairs(couples: Sequence[tuple[str, str, NDArray[np.bool_], NDArray[np.bool_]]]) -> list[Pair]:
    """Compares pairs of models, and corrects for their number.

    Args:
        couples: per pair the two names, and whether each classified each image correctly, bool [n]; the same images in
            the same order.
    """
    p_values = holm([mcnemar(int((a & ~b).sum()), int((~a & b).sum())) for _, _, a, b in couples])
    return [
        Pair(first, second, int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()), p)
        for (first, second, a, b), p in zip(couples, p_values, strict=True)
    ]


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"
