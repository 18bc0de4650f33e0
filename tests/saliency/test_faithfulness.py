"""Deletion and insertion tell a map that points at what a model needs from one that does not."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import torch
from keras import layers

from kcv.errors import UsageError
from kcv.saliency.faithfulness import RANDOM, blurred, faithfulness
from kcv.saliency.methods import METHODS

from .conftest import noise, red_patch, redness, sequential


def red_images(count: int = 6) -> np.ndarray:
    return np.concatenate([np.roll(red_patch(), (i, 2 * i), axis=(1, 2)) for i in range(count)])


def test_a_map_that_points_at_the_evidence_beats_noise() -> None:
    model = redness(weights=(60.0, -60.0))
    model.get_layer("logits").bias.assign(np.array([-2.5, 2.5], np.float32))  # a blurred patch is not red enough
    found = faithfulness(model, red_images(), np.zeros(6, np.int64), steps=10)
    assert set(found) == {*METHODS, RANDOM}
    for method in METHODS:
        # All red is gone after a tenth of the pixels, and back after a tenth.
        assert found[method]["deletion_auc"] < found[RANDOM]["deletion_auc"] - 0.1
        assert found[method]["insertion_auc"] > found[RANDOM]["insertion_auc"] + 0.1
        assert found[method]["flat"] == 0
    json.dumps(found, allow_nan=False)
    assert all(type(value) is float for figures in found.values() for value in figures.values())


def test_a_model_that_does_not_look_has_the_area_of_its_probability() -> None:
    model = redness(weights=(0.0, 0.0))
    bias = np.array([1.0, -1.0], np.float32)
    model.get_layer("logits").bias.assign(bias)
    expected = float(np.exp(1) / (np.exp(1) + np.exp(-1)))
    for figures in faithfulness(model, red_images(3), steps=4, methods=["gradcam"]).values():
        assert figures["deletion_auc"] == pytest.approx(expected, abs=1e-6)
        assert figures["insertion_auc"] == pytest.approx(expected, abs=1e-6)
        assert figures["deletion_sem"] == pytest.approx(0, abs=1e-9)
    assert faithfulness(model, red_images(3), steps=4, methods=["gradcam"])["gradcam"]["flat"] == 1


def test_a_curve_worked_out_by_hand() -> None:
    # One bright pixel is all the evidence, and the first to go: half of a step with it, none after.
    dense = layers.Dense(2, name="logits")
    bright = layers.Conv2D(1, 1, activation="relu", name="bright")
    model = sequential(bright, layers.GlobalMaxPooling2D(), dense, size=4)
    bright.set_weights([np.ones((1, 1, 3, 1), np.float32), np.full(1, -300, np.float32)])
    dense.set_weights([np.array([[1.0, 0.0]], np.float32), np.zeros(2, np.float32)])
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    pixels[0, 1, 2] = 255
    found = faithfulness(model, pixels, np.array([0]), steps=16, methods=["hirescam"], advance=(done := []).append)
    assert found["hirescam"]["deletion_auc"] == pytest.approx((0.5 * (1 + 0.5) + 15 * 0.5) / 16, abs=1e-6)
    assert done == [1]


def test_the_same_seed_gives_the_same_figures_in_any_batches(custom_cnn: keras.Model) -> None:
    pixels = noise(32, 6)
    options = {"methods": ["gradcam"], "steps": 3}
    whole = faithfulness(custom_cnn, pixels, **options)
    assert whole == faithfulness(custom_cnn, pixels, **options)
    parts = faithfulness(custom_cnn, pixels, batch_size=4, **options)
    assert parts["gradcam"]["deletion_auc"] == pytest.approx(whole["gradcam"]["deletion_auc"], abs=1e-5)
    assert parts[RANDOM]["insertion_auc"] == pytest.approx(whole[RANDOM]["insertion_auc"], abs=1e-5)
    other = faithfulness(custom_cnn, pixels, seed=1, **options)
    assert other[RANDOM] != whole[RANDOM]
    with pytest.raises(UsageError):
        faithfulness(custom_cnn, pixels, layer="pool")


def test_a_blur_keeps_what_is_even_and_flattens_what_is_not() -> None:
    even = torch.full((1, 16, 16, 3), 77.0)
    torch.testing.assert_close(blurred(even), even)
    images = torch.from_numpy(noise(16)).float()
    assert blurred(images).shape == images.shape
    assert blurred(images).var() < images.var() / 2
