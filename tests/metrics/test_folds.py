"""The interval of an out-of-fold accuracy: its parts by hand, and how often it holds the true accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from folded_digits import coverage

from kcv.metrics.folds import out_of_fold_interval
from kcv.metrics.significance import wilson_interval, wilson_of_fraction


def test_of_single_images_it_is_wilsons_with_the_variance_of_correlated_folds() -> None:
    right = np.arange(100) < 80
    # The variance between single images is n / (n - 1) times p (1 - p) / n; five folds multiply it by 1 + 4 / 5.
    wanted = wilson_of_fraction(0.8, 100 / (100 / 99 * 1.8))
    assert out_of_fold_interval(right, np.arange(100), 5) == pytest.approx(wanted)
    assert out_of_fold_interval(right, np.arange(100), 5)[0] < wilson_interval(80, 100)[0]


def test_of_images_that_are_all_there_twice_it_is_that_of_half_as_many() -> None:
    once = np.arange(100) < 80
    twice = out_of_fold_interval(np.repeat(once, 2), np.repeat(np.arange(100), 2), 5)
    assert twice == pytest.approx(out_of_fold_interval(once, np.arange(100), 5))


def test_the_design_effect_by_hand() -> None:
    # Three groups of 2, 1 and 1 images, of which 2, 1 and 0 are right: p = 3/4, residuals 1/2, 1/4, -3/4.
    grouped = 3 / 2 * (1 / 4 + 1 / 16 + 9 / 16) / 16
    effect = grouped / (3 / 16 / 4)
    wanted = wilson_of_fraction(0.75, 4 / (effect * 1.5))
    found = out_of_fold_interval(np.array([True, True, True, False]), np.array([7, 7, 1, 2]), 2)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("right", [True, False])
def test_where_all_images_are_right_groups_still_count_as_one_image(right: bool) -> None:
    answers, groups = np.full(60, right), np.repeat(np.arange(20), 3)
    low, high = out_of_fold_interval(answers, groups, 5)
    assert (low, high) == pytest.approx(wilson_of_fraction(float(right), 20 / 1.8))
    assert 0 <= low < high <= 1


@pytest.mark.long
@pytest.mark.parametrize("copied", [0, 40])
def test_a_nominal_interval_of_95_percent_holds_the_accuracy_in_92_to_98_percent(copied: int) -> None:
    from sklearn.linear_model import RidgeClassifier

    found = coverage(lambda: RidgeClassifier(100.0), 5, copied)
    assert 0.92 <= found["kcv"][0] <= 0.98
    assert found["Wilson"][0] < 0.92, "Wilson's interval of the pooled predictions would do"
