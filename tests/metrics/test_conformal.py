"""Prediction sets: the promise over many draws, the quantile by its definition, and where there is little to go by."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from pydantic import ValidationError

from kcv.errors import ArtifactError, DataError
from kcv.metrics import summarize
from kcv.metrics.conformal import PredictionSets, fewest_images, fit_sets, measure_sets, require_images
from kcv.metrics.temperature import Calibration, softmax

NAMES = ("a", "b", "c", "d")
SETS = PredictionSets(wanted_coverage=0.9, least=0.25, images=40)


def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is overconfident, and labels: no calibration is needed for the promise."""
    logits = rng.normal(size=(n, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits.astype(np.float32))])
    return softmax((2 * logits).astype(np.float32)), labels


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_over_many_draws_the_sets_hold_the_right_class_as_often_as_promised(coverage: float) -> None:
    rng = np.random.default_rng(0)
    n, draws = 39, 300
    found = []
    for _ in range(draws):
        sets = fit_sets(*drawn(rng, n), coverage)
        probabilities, labels = drawn(rng, 100)
        found.append(sets.members(probabilities)[np.arange(100), labels].mean())
    # Without ties the mean lies between the level and 1/(n + 1) above it; 4 standard errors for the number of draws.
    margin = 4 * math.sqrt(coverage * (1 - coverage) * (1 / n + 1 / 100) / draws)
    assert coverage - margin <= np.mean(found) <= coverage + 1 / (n + 1) + margin


@pytest.mark.parametrize(("n", "coverage"), [(19, 0.95), (20, 0.95), (99, 0.99), (9, 0.9), (250, 0.77), (3, 0.5)])
def test_the_quantile_is_that_of_its_definition(n: int, coverage: float) -> None:
    rng = np.random.default_rng(n)
    probabilities, labels = drawn(rng, n)
    scores = np.sort(1 - probabilities[np.arange(n), labels])
    # The smallest rank of which (rank / (n + 1)) is at least the level, counted in whole hundredths.
    rank = next(r for r in itertools.count(1) if 100 * r >= (n + 1) * round(100 * coverage))
    assert fit_sets(probabilities, labels, coverage).least == pytest.approx(1 - scores[rank - 1], abs=1e-6)


@pytest.mark.parametrize(("coverage", "needed"), [(0.95, 19), (0.9, 9), (0.99, 99), (0.5, 1), (0.999, 999)])
def test_too_few_images_are_refused_in_one_line(coverage: float, needed: int) -> None:
    assert fewest_images(coverage) == needed
    require_images(coverage, needed)
    probabilities, labels = drawn(np.random.default_rng(0), max(1, needed - 1))
    with pytest.raises(
        DataError, match=rf"--coverage: {coverage:g} needs {needed} or more validation images"
    ) as caught:
        fit_sets(probabilities[: needed - 1], labels[: needed - 1], coverage)
    assert "\n" not in str(caught.value)


def test_no_set_is_empty_and_none_leaves_out_a_likelier_class() -> None:
    probabilities = np.array([[0.2, 0.24, 0.2, 0.2], [0.25, 0.5, 0.25, 0.0], [0.9, 0.1, 0.0, 0.0]], np.float32)
    assert SETS.members(probabilities).tolist() == [
        [False, True, False, False], [True, True, True, False], [True, False, False, False],
    ]  # fmt: skip
    assert [SETS.names(row, NAMES) for row in probabilities] == [["b"], ["b", "a", "c"], ["a"]]


def test_a_class_at_the_very_limit_is_inside_in_every_precision() -> None:
    probabilities, labels = drawn(np.random.default_rng(1), 19)
    sets = fit_sets(probabilities, labels, 0.95)  # the image of the lowest probability decides
    lowest = int(probabilities[np.arange(19), labels].argmin())
    for values in (probabilities, probabilities.astype(np.float32)):
        assert sets.members(values)[lowest, labels[lowest]]
        assert sets.members(values)[np.arange(19), labels].all()
    again = PredictionSets.from_text(sets.to_text(), "m.onnx")
    assert again == sets and again.members(probabilities)[lowest, labels[lowest]]


def test_what_is_measured_equals_a_count_by_hand() -> None:
    probabilities = np.array([[0.6, 0.3, 0.1, 0.0], [0.1, 0.8, 0.05, 0.05], [0.3, 0.3, 0.3, 0.1], [0.9, 0.1, 0.0, 0.0]])
    labels = np.array([1, 1, 3, 0])
    found = measure_sets(SETS, labels, probabilities, NAMES)
    assert found == summarize(labels, probabilities, NAMES, "test", sets=SETS)["prediction_sets"]
    low, high = found.pop("coverage_ci95")
    assert low < 0.75 < high
    assert found == {
        "wanted_coverage": 0.9, "least": 0.25, "coverage": 0.75, "mean_size": (2 + 1 + 3 + 1) / 4, "single": 0.5,
        "largest": 3, "lowest_class": "d", "lowest_class_coverage": 0.0,
    }  # fmt: skip
    assert "prediction_sets" not in summarize(labels, probabilities, NAMES, "test")


def test_a_calibration_with_sets_says_so_and_keeps_them_beside_a_threshold() -> None:
    probabilities, labels = drawn(np.random.default_rng(2), 60)
    logits = np.log(probabilities).astype(np.float32)
    found = Calibration(pictures=60).with_sets(logits, labels, 0.9).with_threshold(logits, labels, 0.5, NAMES)
    assert found.sets == fit_sets(softmax(logits), labels, 0.9)
    assert found.threshold is not None
    assert "sets for 90%: classes of probability" in found.describe()
    assert Calibration.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", SETS.to_text().replace("0.25", "NaN"), SETS.to_text() * 2])
def test_a_damaged_text_is_one_line(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"^m\.onnx: ") as caught:
        PredictionSets.from_text(text, "m.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"least": -0.1}, {"wanted_coverage": 1.0}, {"images": 0}, {"least": math.nan}])
def test_impossible_values_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PredictionSets(**{**SETS.model_dump(), **change})
