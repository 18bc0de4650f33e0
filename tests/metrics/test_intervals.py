"""Intervals against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score

from kcv import metrics


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (5, 10), (1, 1), (8600, 10000), (9999, 10000)])
def test_wilson_interval_agrees_with_scipy(correct: int, n: int) -> None:
    low, high = metrics.wilson_interval(correct, n)
    assert (low, high) == pytest.approx(tuple(binomtest(correct, n).proportion_ci(method="wilson")), abs=1e-12)
    assert 0 <= low <= correct / n <= high <= 1


def test_wilson_interval_of_nothing_says_nothing() -> None:
    assert metrics.wilson_interval(0, 0) == (0, 1)


def macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """As scikit-learn has it, which takes 100 times as long."""
    both = [np.bincount(values, minlength=classes) for values in (labels, predicted)]
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return float(np.mean(2 * right / (both[0] + both[1])))


@pytest.mark.parametrize(("n", "classes"), [(60, 2), (300, 5)])
def test_macro_f1_interval_is_that_of_resampled_images(n: int, classes: int) -> None:
    rng = np.random.default_rng(n)
    labels = rng.integers(0, classes, n)
    predicted = np.where(rng.random(n) < 0.8, labels, rng.integers(0, classes, n))
    assert macro_f1(labels, predicted, classes) == pytest.approx(f1_score(labels, predicted, average="macro"))
    samples = [rng.integers(0, n, n) for _ in range(2000)]
    scores = [macro_f1(labels[rows], predicted[rows], classes) for rows in samples]
    low, high = metrics.macro_f1_interval(confusion_matrix(labels, predicted))
    # Two runs of the same bootstrap differ by about this much.
    assert (low, high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.012)
    assert low < f1_score(labels, predicted, average="macro") < high


def test_macro_f1_interval_repeats() -> None:
    matrix = np.array([[8, 2], [1, 9]])
    assert metrics.macro_f1_interval(matrix) == metrics.macro_f1_interval(matrix)


@pytest.mark.parametrize("matrix", [np.diag([10, 5]), np.array([[0, 7], [8, 0]])])
def test_macro_f1_interval_of_all_right_or_all_wrong_is_no_point(matrix: np.ndarray) -> None:
    assert metrics.macro_f1_interval(matrix) == metrics.wilson_interval(int(np.trace(matrix)), 15)


@pytest.mark.full
def test_macro_f1_interval_of_many_classes_stays_small() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 1000, (2, 10_000))
    low, high = metrics.macro_f1_interval(metrics.confusion_matrix(labels, predicted, 1000))
    assert 0 < low < high < 0.01
