"""Which classes count as rare."""

from __future__ import annotations

import numpy as np
import pytest

from kcv.data.rarity import find_rare

NAMES = ("a", "b", "c", "d")


def labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(
    ("counts", "rare"),
    [
        ((30, 30, 30, 30), ()),
        ((50, 40, 30, 14), ()),  # an equal share is 33.5; a third of it 11.2
        ((50, 40, 30, 10), ("d",)),  # 32.5; a third of it 10.8
        ((90, 10), ("b",)),
        ((50, 11), ()),
        ((1000, 99, 300), ("b",)),
        ((10, 500, 5, 500), ("c", "a")),
        ((10, 0, 10), ()),  # missing is not rare
        ((7,), ()),
    ],
)
def test_a_class_with_a_third_of_an_equal_share_or_a_tenth_of_the_largest_is_rare(
    counts: tuple[int, ...], rare: tuple[str, ...]
) -> None:
    found = find_rare(labels(*counts), NAMES)
    assert (found.names if found else ()) == rare


def test_it_says_so_in_words() -> None:
    found = find_rare(labels(10, 500, 5, 500), NAMES)
    assert found is not None
    assert found.describe() == "500 images of 'b' and 5 of 'c', 100 times fewer (2 of 4 classes are rare)"
    few = find_rare(labels(50, 40, 30, 10), NAMES)
    assert few is not None and few.describe() == "50 images of 'a' and 10 of 'd', 5.0 times fewer"
