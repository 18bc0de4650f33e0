"""McNemar's test, its interval and the correction, against independent computations."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from kcv.metrics.significance import Pair, holm, mcnemar, pairs


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (2, 9), (12, 3), (150, 86)])
def test_mcnemar_is_the_sum_of_binomial_tails(b: int, c: int) -> None:
    n = b + c
    tail = sum(comb(n, k) for k in range(min(b, c) + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail) if n else 1.0, rel=1e-12)


def test_mcnemar_of_a_textbook() -> None:
    # Agresti, Categorical Data Analysis (2nd ed.), table 10.1: approval ratings, 150 and 86 changed their mind.
    assert mcnemar(150, 86) == pytest.approx(3.7e-5, rel=0.02)
    pair = Pair("first", "second", 794, 150, 86, 570, mcnemar(150, 86))
    assert pair.difference == pytest.approx(4.0)
    assert pair.interval == pytest.approx((2.1, 5.9), abs=0.1)  # the book: 0.04 +- 0.0187


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_model_against_itself_and_against_a_worse_one() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.random(500) < 0.9, rng.random(500) < 0.6
    same, better, _ = pairs({"a": good, "copy": good, "bad": bad})
    assert (same.p_value, same.difference, same.only_first, same.only_second) == (1.0, 0.0, 0, 0)
    assert same.words().startswith("a and copy do not differ beyond chance (+0.00 points")
    assert same.interval[0] < 0 < same.interval[1]
    assert better.p_value < 1e-10
    assert better.words().startswith("a is better than bad (a less bad: +")
    assert better.both + better.only_first + better.only_second + better.neither == 500
    (turned,) = pairs({"bad": bad, "a": good})
    assert turned.words().startswith("a is better than bad (bad less a: -")
