"""How the time of a command is divided."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

from kcv.config import Config
from kcv.data.dataset import Samples, Source
from kcv.training import time_budget
from kcv.training.time_budget import Clock, Counts, Probe, Rates, Seconds


def test_what_came_before_the_clock_comes_again_at_the_end_and_what_is_measured_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 104.0
    monkeypatch.setattr(time_budget.time, "perf_counter", lambda: now)
    clock = Clock(minutes=2, began=100)  # imports took 4 s
    assert clock.passed() == 4 and clock.left() == pytest.approx(0.97 * 120 - 4 - 4)
    now = 124.0  # speeds were measured
    assert clock.left() == pytest.approx(0.97 * 120 - 24 - 4)
    assert clock.whole(60) == 60 + 24 + 4
    assert Clock(minutes=None, began=100).left() == float("inf")


@pytest.mark.parametrize(
    ("given", "head", "everything"),
    [
        ({}, False, True),
        ({"model.unfreeze_after": 2}, True, True),
        ({"model.mode": "feature_extraction"}, True, False),
    ],
    ids=str,
)
def test_what_a_run_trains_is_measured(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], head: bool, everything: bool
) -> None:
    monkeypatch.setattr(time_budget, "_SECONDS", 0.01)
    monkeypatch.setattr(time_budget, "_HEAD_SECONDS", 0.01)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    train = Samples(list(pixels), np.arange(24) % 2, [f"{i}.png" for i in range(24)])  # type: ignore[arg-type]
    source = Source("photos", ("cat", "dog"), {"train": train})
    size = {"data.image_size": 32, "data.batch_size": 4, "model.width": 0.25, "model.weights": "none"}
    config = Config.load(model="custom_cnn", minutes=1, **size, **given)
    measured: list[int] = []
    step_rate = Probe._step_rate

    def counted(self: Probe, fitted: keras.Model, *rest: Any) -> float:
        measured.append(fitted.count_params())
        return step_rate(self, fitted, *rest)

    monkeypatch.setattr(Probe, "_step_rate", counted)
    rates = Probe(config, source, train, "cpu").rates()
    assert len(measured) == head + everything and measured == sorted(set(measured))  # the head has fewer parameters
    assert [math.isfinite(rates.head), math.isfinite(rates.step)] == [head, everything]
    assert (rates.settling > 0) == (given == {})  # statistics that were frozen once stay frozen
    assert all(rate > 0 and math.isfinite(rate) for rate in (rates.forward, rates.decode, rates.saving))


FROZEN = {"model.mode": "feature_extraction", "augment.flip": "none"}


@pytest.mark.parametrize(
    ("given", "passes", "passes_per_epoch"),
    [
        (FROZEN, 1, 0),  # all views of images that are not augmented are the same
        ({**FROZEN, "augment.flip": "random", "model.feature_views": 3}, 3, 0),
        ({**FROZEN, "augment.flip": "random"}, 0, 1),
        ({"model.unfreeze_after": 2, "augment.flip": "random", "model.feature_views": 3}, 2, 0),
        ({"model.unfreeze_after": 2, "augment.flip": "random"}, 0, 1),
        ({"model.unfreeze_after": 2, "augment.mixup": 0.2, "model.feature_views": 1}, 1, 0),
        ({"model.unfreeze_after": 2, "model.feature_views": 1, "train.keep": "last"}, 1, 0),
    ],
    ids=str,
)
def test_every_pass_through_a_frozen_backbone_is_counted(
    given: dict[str, Any], passes: int, passes_per_epoch: int
) -> None:
    counts = Counts(train=1000, val=100, test=200)
    config = Config.load(model="efficientnet_lite0", **given)
    rates = Rates(step=10, forward=100, decode=1000, head=10_000, saving=0.5)
    seconds = rates.seconds(config, counts)
    last = config.train.keep == "last"
    each = 0.5 if last else 0
    head = 0.1 + 0.013 + 10 * passes_per_epoch + each
    # Decoding, evaluation of two splits, features of the validation images, and the model's file, 20 times in all or
    # after each epoch.
    fixed = 1.3 + 3 + 1 + (0 if last else 10) + 10 * passes
    if frozen := config.model.unfreeze_after:
        epoch = 100 + 1 + 0.013 + each
        assert (seconds.fixed, seconds.epoch) == pytest.approx((fixed + frozen * (head - epoch), epoch))
    else:
        assert (seconds.fixed, seconds.epoch) == pytest.approx((fixed, head))


def test_statistics_that_are_estimated_anew_take_time_in_the_first_epochs() -> None:
    counts = Counts(train=1500, val=100, test=0)
    config = Config.load(model="efficientnet_lite0", **{"data.batch_size": 100, "model.freeze_batch_norm": False})
    rates = Rates(step=100, forward=100, decode=1500, head=15_000, settling=46)
    one = rates.seconds(config, counts)
    # After 3 x 15 of 46 steps they are still re-estimated, from 1,024 images at three times the speed of training.
    assert (one.slow, one.extra) == (3, pytest.approx(1024 / 300))
    two = rates.seconds(config.completed({"model.unfreeze_after": 2, "model.feature_views": 1}), counts)
    passes = (1500 + 100) / 100
    assert two.of(2) == pytest.approx(one.fixed + passes + 2 * (0.1 + 0.013))
    assert two.of(9) - two.of(2) == pytest.approx(one.of(7) - one.of(0))


def test_as_many_epochs_fit_as_end_in_time() -> None:
    seconds = Seconds(fixed=10, epoch=2, slow=5, extra=1)
    for epochs in range(12):
        assert seconds.epochs_in(seconds.of(epochs)) == epochs
        assert seconds.epochs_in(seconds.of(epochs + 1) - 0.01) == epochs
    assert seconds.epochs_in(9) == 0
