"""Temperature and threshold: against independent references, and where there is little to go by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kcv.errors import DataError
from kcv.metrics.temperature import Calibration, choose_threshold, fit, fit_temperature, softmax

NAMES = ("a", "b", "c")


def drawn(seed: int, n: int = 400, classes: int = 3, temperature: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times what the labels were drawn from."""
    rng = np.random.default_rng(seed)
    true = 1.5 * rng.normal(size=(n, classes))
    labels = np.array([rng.choice(classes, p=p) for p in softmax(true)])
    return (temperature * true).astype(np.float32), labels


def by_torch(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of Guo et al.: cross-entropy minimised with L-BFGS, as in their code."""
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)
    x, y = torch.from_numpy(logits).double(), torch.from_numpy(labels)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x / log_temperature.exp(), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_temperature.detach().exp())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_equals_an_independent_reference(seed: int, temperature: float) -> None:
    logits, labels = drawn(seed, n=50 + 40 * seed, classes=2 + seed % 4, temperature=temperature)
    assert fit_temperature(logits, labels) == pytest.approx(by_torch(logits, labels), rel=1e-4)


def test_temperature_is_found_again_and_changes_no_class() -> None:
    logits, labels = drawn(0, n=20_000)
    calibration = fit(logits, labels)
    assert calibration.temperature == pytest.approx(2.5, rel=0.05)
    assert calibration.pictures == 20_000
    probabilities = calibration.probabilities(logits)
    assert (probabilities.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert abs(probabilities.max(axis=1).mean() - (probabilities.argmax(axis=1) == labels).mean()) < 0.01


@pytest.mark.parametrize("n", [1, 10, 500])
def test_all_right_is_no_certainty(n: int) -> None:
    labels = np.arange(n) % 3
    logits = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32) + 6 * np.eye(3, dtype=np.float32)[labels]
    assert (logits.argmax(axis=1) == labels).all()
    confidence = softmax(logits, fit_temperature(logits, labels)).max(axis=1).mean()
    assert confidence == pytest.approx((n + 1) / (n + 2), abs=1e-6)


@pytest.mark.parametrize(
    "logits", [np.zeros((4, 2)), np.full((4, 2), np.nan), np.array([[0.0, 9.0]] * 4)], ids=["flat", "nan", "all wrong"]
)
def test_logits_that_say_nothing_give_an_allowed_temperature(logits: np.ndarray) -> None:
    temperature = fit_temperature(logits.astype(np.float32), np.zeros(4, np.int64))
    assert 0.01 <= temperature <= 100


def test_threshold_is_the_lowest_that_gives_the_precision() -> None:
    confidence = np.array([0.9, 0.5, 0.8, 0.6, 0.7])
    right = np.array([True, False, True, True, False])
    assert choose_threshold(confidence, right, 1.0) == 0.8
    assert choose_threshold(confidence, right, 0.75) == 0.6  # 3 of 4, though only 2 of 3 above 0.7
    assert choose_threshold(confidence, right, 0.6) == 0.5
    assert choose_threshold(confidence, ~right, 0.99) is None


def test_equal_confidences_are_answered_together() -> None:
    assert choose_threshold(np.array([0.9, 0.9, 0.5]), np.array([True, False, True]), 1.0) is None
    assert choose_threshold(np.array([0.9, 0.9, 0.5]), np.array([True, False, True]), 0.6) == 0.5


def test_threshold_keeps_its_promise_where_it_was_chosen() -> None:
    logits, labels = drawn(1, n=2000)
    calibration = fit(logits, labels).with_threshold(logits, labels, 0.9, NAMES)
    probabilities = calibration.probabilities(logits)
    answered = probabilities.max(axis=1) >= calibration.threshold
    right = (probabilities.argmax(axis=1) == labels)[answered]
    assert calibration.precision == right.mean() >= 0.9
    assert calibration.coverage == answered.mean()
    assert 0.1 < calibration.coverage < 1
    assert f"unsure below {calibration.threshold:.4f}" in calibration.describe()


def test_what_cannot_be_promised_is_refused() -> None:
    logits, labels = np.eye(3, dtype=np.float32), np.array([1, 2, 0])
    with pytest.raises(DataError, match=r"0\.99 is reached at no threshold on 3 images"):
        fit(logits, labels).with_threshold(logits, labels, 0.99, NAMES)
    with pytest.raises(DataError, match="a class is called 'unsure'"):
        fit(logits, labels).with_threshold(logits, np.arange(3), 0.5, ("a", "unsure", "c"))


@pytest.mark.parametrize(
    "values", [{"temperature": 0}, {"temperature": math.nan}, {"temperature": -1}, {"threshold": 1.5}, {"coverage": 2}]
)
def test_a_description_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Calibration(**values)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 3e37])
@pytest.mark.parametrize("right", ["all", "none", "some"])
def test_extreme_logits_have_a_temperature_within_bounds(scale: float, right: str) -> None:
    labels = np.arange(30) % 3
    shift = {"all": np.zeros(30, int), "none": np.ones(30, int), "some": np.arange(30) % 2}[right]
    logits = (np.eye(3)[(labels + shift) % 3] * scale).astype(np.float32)
    found = fit(logits, labels)
    assert 0.01 <= found.temperature <= 100
    assert np.isfinite(found.probabilities(logits)).all()
