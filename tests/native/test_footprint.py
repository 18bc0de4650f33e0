"""How many images are computed at once: by the bytes of their activations, with the same results."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers

from kcv.native import footprint
from kcv.native.lowering import lower
from kcv.native.model import NativeModel


def small() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="wide")(inputs)
    y = layers.Conv2D(16, 3, padding="same", name="branch")(x)
    x = layers.Add(name="add")([x, y])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name="small")


def test_bytes_are_those_of_values_that_are_there_at_the_same_time() -> None:
    program = lower(small())
    wide = 8 * 8 * 16 * 4
    # Both branches and their sum; nothing that was forgotten before.
    assert 3 * wide <= footprint.bytes_of_program(program) <= 3 * wide + 8 * 8 * 3 * 4
    assert footprint.bytes_of_program(program, kept_from=0) >= 3 * wide + 8 * 8 * 3 * 4
    assert footprint.bytes_of_model(small()) == 3 * wide


def test_images_at_once_are_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert footprint.images_at_once(footprint.MOST_BYTES // 10) == 10
    assert footprint.images_at_once(footprint.MOST_BYTES * 2) == 1
    assert footprint.images_at_once(0) == footprint.MOST_BYTES


@pytest.mark.parametrize("native", [True, False])
def test_a_large_batch_is_computed_in_nearly_equal_parts(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    core, images = small(), np.random.default_rng(0).normal(size=(10, 8, 8, 3)).astype(np.float32)
    whole = NativeModel(core).forward_pass(images, training=False).detach()
    monkeypatch.setattr(footprint, "MOST_BYTES", 4 * footprint.bytes_of_program(lower(core)))
    model, seen = NativeModel(core), []
    if not native:
        model.program = None
    run = model._pass

    def watched(*tensors: torch.Tensor, training: bool) -> Any:
        seen.append(len(tensors[0]))
        return run(*tensors, training=training)

    monkeypatch.setattr(model, "_pass", watched)
    np.testing.assert_allclose(model.forward_pass(images, training=False).detach(), whole, rtol=1e-5, atol=1e-6)
    assert seen == [4, 3, 3]
    seen.clear()
    model.forward_pass(images, training=True)
    assert seen == [10]  # training has its own ways to save memory


def test_several_outputs_are_put_together_each() -> None:
    tensors = torch.arange(7.0)[:, None], torch.arange(7.0)[:, None] * 2
    sums, differences = footprint.in_parts(lambda a, b: (a + b, a - b), tensors, 3)
    assert torch.equal(sums, torch.arange(7.0)[:, None] * 3)
    assert torch.equal(differences, -torch.arange(7.0)[:, None])
