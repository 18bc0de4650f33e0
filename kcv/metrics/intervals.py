"""95% confidence intervals of accuracy and macro F1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.confusion import Confusion

Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile
_RESAMPLES = 1000
_MOST_COUNTS = 10_000_000  # resampled cells in memory at once


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Returns the 95% interval (low, high) of a proportion, `correct` out of `n`; (0, 1) if n is 0.

    Wilson's score interval (JASA 22, 1927). It is also valid near 0 and 1 and for few images, where the normal
    approximation leaves [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = correct / n, Z95**2
    centre = p + z2 / (2 * n)
    margin = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    scale = 1 + z2 / n
    # Exact at the ends: rounding would give 1e-17 instead of 0, and slightly less than 1 instead of 1.
    low = 0.0 if correct == 0 else (centre - margin) / scale
    high = 1.0 if correct == n else (centre + margin) / scale
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


_CELLS = 2**22  # of a block, which has at least one row


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices that cover all rows of a table in order, so that each block is of bounded size."""
    step = max(1, _CELLS // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
