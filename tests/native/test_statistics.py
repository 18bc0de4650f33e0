"""Moving statistics from batches: their mean, under the weights as they are, and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from keras import layers

from kcv.native.layers.lowered import Target
from kcv.native.model import NativeModel
from kcv.native.statistics import re_estimate, share_of_beginning


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, data_format="channels_last")(inputs)
    x = layers.BatchNormalization(momentum=0.9, name="learning")(x)
    x = layers.BatchNormalization(trainable=False, name="frozen")(layers.Activation("relu")(x))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((size, 6, 6, 3), generator=generator) * 3 + 1 for size in (8, 8, 7)]


@pytest.mark.parametrize("through_keras", [False, True])
def test_statistics_become_the_mean_of_those_of_the_batches(through_keras: bool) -> None:
    model = NativeModel(network(), target=Target())
    if through_keras:
        model.program = None
    before = [weight.copy() for weight in model.core.get_weights()]
    re_estimate(model, batches())
    conv, norm, frozen = (model.core.layers[i] for i in (1, 2, 4))
    with torch.no_grad():
        seen = [conv(batch) for batch in batches()]
    means = torch.stack([x.mean((0, 1, 2)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 1, 2), correction=0) for x in seen]).mean(0)
    torch.testing.assert_close(norm.moving_mean.value, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.moving_variance.value, variances, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.9 and frozen.momentum == 0.99
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.core.get_weights(), strict=True)]
    names = [weight.path for weight, moved in zip(model.core.weights, changed, strict=True) if moved]
    assert names == ["learning/moving_mean", "learning/moving_variance"]
    assert all(variable.value.grad is None for variable in model.core.trainable_variables)


def test_parts_of_a_batch_that_does_not_fit_count_like_batches() -> None:
    whole, parts = (NativeModel(network(), target=Target()) for _ in range(2))
    re_estimate(whole, [half for batch in batches()[:2] for half in (batch[:4], batch[4:])])
    parts.parts = 2
    re_estimate(parts, batches()[:2])
    for one, other in zip(whole.core.get_weights(), parts.core.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_failure_leaves_the_momentum() -> None:
    model = NativeModel(network(), target=Target())
    with pytest.raises(Exception, match="failed"):
        re_estimate(model, [torch.zeros(4, 6, 6, 5)])
    assert model.core.layers[2].momentum == 0.9


def test_the_beginning_fades_with_the_slowest_layer_that_learns() -> None:
    model = network()
    assert share_of_beginning(model, 0) == 1
    assert share_of_beginning(model, 10) == pytest.approx(0.9**10)
    model.get_layer("learning").trainable = False
    assert share_of_beginning(model, 10) == 0
