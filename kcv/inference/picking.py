"""Chooses which unlabelled images to label next: k-centre greedy over the uncertain ones.

Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach (ICLR 2018,
arXiv:1708.00489): each image that is taken is the farthest from those taken so far, so that they differ. Over all
images that would take outliers; here it chooses among the images that the model is least confident about. Decision 028.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

POOL = 10
"""So many times as many uncertain images are held as are picked."""


class Picker:
    """Holds the most uncertain images of a stream, and picks those that differ.

    Args:
        count: the number of images to pick.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen = 0
        # The most confident of those held comes first, and of equal ones the later: it is the first to leave.
        self._held: list[_Held] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Looks at a row with `confidence` and `vector`; rows with an error are passed over."""
        if row["error"]:
            return
        entry = _Held((row["confidence"], self._seen), row)
        self._seen += 1
        if len(self._held) < POOL * self._count:
            heapq.heappush(self._held, entry)
        elif entry.key < self._held[0].key:
            heapq.heapreplace(self._held, entry)

    def picked(self) -> list[Mapping[str, Any]]:
        """Returns the picked rows in the order of their choice, the least confident first."""
        rows = [entry.row for entry in sorted(self._held, key=lambda entry: entry.key)]
        if not rows:
            return []
        return [rows[at] for at in k_centre(np.stack([row["vector"] for row in rows]), self._count)]


@dataclass(frozen=True, eq=False)
class _Held:
    """An image in the heap, whose order is turned around."""

    key: tuple[float, int]
    row: Mapping[str, Any]

    def __lt__(self, other: _Held) -> bool:
        return self.key > other.key


def k_centre(vectors: NDArray[np.float32], count: int) -> list[int]:
    """Returns the positions of vectors that lie far from each other, beginning with the first.

    Each next one is the farthest from its nearest neighbour among those chosen, by the angle between vectors.

    Args:
        vectors: float32 [n, width], n >= 1.
        count: how many, at most.
    """
    unit = unit_vectors(vectors)
    chosen = [0]
    nearest = unit @ unit[0]  # the cosine to the nearest chosen one
    nearest[0] = np.inf
    while len(chosen) < min(count, len(unit)):
        at = int(nearest.argmin())
        chosen.append(at)
        np.maximum(nearest, unit @ unit[at], out=nearest)
        nearest[at] = np.inf
    return chosen


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns vectors scaled to length 1, float32 [n, width]; zeros stay zeros."""
    values = vectors.astype(np.float64)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    found: NDArray[np.float32] = np.divide(values, lengths, out=values, where=lengths > 0).astype(np.float32)
    return found
