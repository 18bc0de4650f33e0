"""Trainings of a few steps: what is kept normalises by its own statistics, not by those it began with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from variants import variants

from kcv.config import Config
from kcv.data import loading
from kcv.inference.opening import load
from kcv.tasks.train import train
from kcv.training.callbacks import control as fresh
from kcv.training.callbacks.control import FreshStatistics

Configure = Callable[..., Config]
ONE_STEP: dict[str, Any] = {"batch_size": 96, "epochs": 6, "lr": 5e-3, "calibrate": False}


def moving(model: keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights if "moving" in weight.name]


@pytest.mark.parametrize(
    "options",
    variants([{}, {"train.ema": 0.5}, {"precision": "mixed_bfloat16"}], fast=1),
    ids=["plain", "average", "bfloat16"],
)
def test_the_statistics_are_those_of_the_weights_that_are_kept(options: dict[str, Any], configure: Configure) -> None:
    run = train(configure(**ONE_STEP, **options))
    model = load(run.model_path).keras_model
    kept = moving(model)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        assert layer.momentum == 0.9
        layer.momentum = 0.0
    images = loading.load(Config.load(run.directory / "config.yaml").data).train.pixels
    with torch.no_grad():
        model(torch.from_numpy(np.asarray(images)), training=True)
    tolerance = 0.05 if options.get("precision") else 1e-3
    for mine, theirs in zip(kept, moving(model), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


def test_a_training_of_six_steps_gives_a_model_that_answers_as_it_learned(configure: Configure) -> None:
    run = train(configure(**ONE_STEP, **{"model.width": 0.5}))
    best = run.history[run.best_epoch - 1]
    assert best["accuracy"] > 0.9
    assert run.metrics["accuracy"] > 0.9


@pytest.mark.full
def test_a_long_training_is_as_it_would_be_without(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def count(model: Any, images: Any, group: Any) -> None:
        passes.append(int(model.optimizer.iterations))

    monkeypatch.setattr(fresh, "re_estimate", count)
    monkeypatch.setattr(fresh, "_FADED", 0.9**13)
    train(configure(epochs=4))  # of six steps
    assert passes == [6, 12]


@pytest.mark.full
def test_frozen_statistics_stay(configure: Configure, trained_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a backbone that is frozen, and of one whose statistics stay as they came; the count is that of the stage."""
    seen: list[int] = []
    begin = FreshStatistics.on_test_begin

    def watched(self: FreshStatistics, logs: dict[str, Any] | None = None) -> None:
        seen.append(int(self.model.optimizer.iterations))
        begin(self, logs)

    monkeypatch.setattr(FreshStatistics, "on_test_begin", watched)
    options = {"model.unfreeze_after": 1, "model.weights": str(trained_run.model_path), "model.width": 0.5}
    run = train(configure(**options))
    assert seen == [6]
    before, after = (moving(load(path).keras_model) for path in (trained_run.model_path, run.model_path))
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
