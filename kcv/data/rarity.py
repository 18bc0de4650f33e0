"""Finds classes with so few images that a network trained on all images alike neglects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from kcv.data.dataset import Labels

MOST_WEIGHT: Final = 3
"""A class is rare if its `balanced` weight is at least this: if it has a third of an equal share, or less."""

MOST_RATIO: Final = 10
"""A class is also rare if another one has at least as many times its images. Imbalance of an order of magnitude (above
9) is what Fernandez et al. 2009 (doi:10.1016/j.ijar.2008.11.004) call high."""

ADVICE: Final = "--data.class_weights=balanced or --data.sampling=balanced makes up for it, sqrt for a part of it"


@dataclass(frozen=True)
class Rarity:
    """The rare classes of a split.

    Attributes:
        names: the rare classes, the rarest first.
        count: images of the rarest class.
        largest: the class with the most images.
        largest_count: how many it has.
        classes: the number of classes that have images.
    """

    names: tuple[str, ...]
    count: int
    largest: str
    largest_count: int
    classes: int

    def describe(self) -> str:
        """Returns it in words."""
        times = self.largest_count / self.count
        few = f"{self.largest_count:,} images of {self.largest!r} and {self.count:,} of {self.names[0]!r}"
        more = f" ({len(self.names):,} of {self.classes:,} classes are rare)" if len(self.names) > 1 else ""
        return f"{few}, {times:.{0 if times >= 10 else 1}f} times fewer{more}"


def find_rare(labels: Labels, class_names: Sequence[str]) -> Rarity | None:
    """Returns the rare classes of a split, or None if there are none.

    Classes without images are not rare but missing, which is reported elsewhere.

    Args:
        labels: int64 [n], n >= 1, positions in `class_names`.
        class_names: the names of the classes.

    Example:
        >>> find_rare(np.array([0] * 50 + [1]), ("cat", "dog")).describe()
        "50 images of 'cat' and 1 of 'dog', 50 times fewer"
    """
    counts = np.bincount(labels, minlength=len(class_names))
    present = np.flatnonzero(counts)
    found = counts[present]
    rare = (found * MOST_WEIGHT * len(present) <= found.sum()) | (found * MOST_RATIO <= found.max())
    if not rare.any():
        return None
    order = present[np.argsort(found, kind="stable")][: int(rare.sum())]
    largest = int(counts.argmax())
    return Rarity(
        tuple(class_names[int(position)] for position in order),
        int(counts[order[0]]),
        class_names[largest],
        int(counts[largest]),
        len(present),
    )
