"""Maps are compared with those of the same network without what it has learned."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
from scipy.stats import spearmanr

from kcv.saliency import randomisation as room
from kcv.saliency.methods import METHODS
from kcv.saliency.randomisation import randomisation, rank_correlation, with_random_weights

from .conftest import noise, redness


def test_a_method_that_ignores_the_weights_is_found_out(
    custom_cnn: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = randomisation(custom_cnn, noise(32, 8))
    assert set(found) == set(METHODS)
    assert abs(found["gradcam"]["rank_correlation"]) < 0.9
    json.dumps(found, allow_nan=False)
    monkeypatch.setattr(room, "with_random_weights", lambda model, seed: model)
    same = randomisation(custom_cnn, noise(32, 8), methods=["gradcam"])["gradcam"]
    assert same["rank_correlation"] == pytest.approx(1.0)
    assert same["compared"] > 0


def test_flat_maps_are_not_compared() -> None:
    blind = redness(weights=(0.0, 0.0))
    assert randomisation(blind, noise(16), methods=["gradcam"]) == {
        "gradcam": {"rank_correlation": None, "compared": 0.0}
    }


def test_random_weights_are_new_in_frozen_layers_too_and_the_model_keeps_its_own(build: Any) -> None:
    model = build("custom_cnn")
    model.trainable = False
    before = model.get_weights()
    first, again, other = (with_random_weights(model, seed) for seed in (0, 0, 1))
    for kept, weights in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weights)
    kernels = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(kernels) == 9
    for name in [*kernels, "logits"]:
        own, a, b, c = (one.get_layer(name).kernel.numpy() for one in (model, first, again, other))
        np.testing.assert_array_equal(a, b)
        assert np.corrcoef(a.ravel(), own.ravel())[0, 1] < 0.5
        assert np.corrcoef(a.ravel(), c.ravel())[0, 1] < 0.5


def test_the_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 6, 6)).astype(np.float32)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.zeros((6, 6), np.float32)) is None
