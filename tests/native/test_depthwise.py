"""Depthwise convolutions in images smaller than their window: the same gradients by another way."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import layers

from kcv.native.layers import windows
from kcv.native.layers.depthwise import depthwise, slow_elsewhere, weight_gradient
from kcv.native.model import NativeModel, compile_classifier
from kcv.native.optimizers import FusedSGD

CASES = {
    "3x3 in 1 px": ((3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3 in 2 px": ((3, 3), (1, 1), (1, 1), (2, 2)),
    "5x5 in 4 px, strided": ((5, 5), (2, 2), (2, 2), (4, 4)),
    "7x7 in 3 px": ((7, 7), (1, 1), (3, 3), (3, 3)),
    "5x3 in a strip": ((5, 3), (1, 1), (2, 1), (2, 9)),
    "unequal strides": ((5, 5), (1, 2), (2, 2), (3, 6)),
    "no padding": ((3, 3), (1, 1), (0, 0), (6, 6)),
    "more padding than needed": ((3, 3), (1, 1), (2, 2), (2, 2)),
    "rest that no window reaches": ((3, 3), (2, 2), (0, 0), (6, 8)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "first"])
def test_gradients_are_those_of_torch(
    case: tuple[tuple[int, int], ...], images: int, layout: torch.memory_format
) -> None:
    kernel, stride, padding, size = case
    torch.manual_seed(0)
    given = [torch.randn(images, 6, *size).to(memory_format=layout), torch.randn(6, 1, *kernel), torch.randn(6)]
    theirs = [tensor.clone().requires_grad_() for tensor in given]
    ours = [tensor.clone().requires_grad_() for tensor in given]
    expected = F.conv2d(*theirs, stride=stride, padding=padding, groups=6)
    found = depthwise(*ours, stride, (padding[1], padding[1], padding[0], padding[0]))
    assert torch.equal(found, expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_weights_is_that_of_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: depthwise(x, w, None, (1, 1), (1, 1, 1, 1)), (weight,))


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.native.layers.depthwise.weight_gradient", lambda *given: 1 / 0)
    x = torch.randn(2, 3, 2, 2, requires_grad=True)
    depthwise(x, torch.randn(3, 1, 3, 3), None, (1, 1), (1, 1, 1, 1)).sum().backward()
    assert x.grad is not None


def test_it_is_for_small_images_of_trained_layers_in_float32() -> None:
    weight = torch.randn(4, 1, 5, 5, requires_grad=True)
    two = (2, 2, 2, 2)
    assert slow_elsewhere(torch.zeros(1, 4, 4, 9), weight, (1, 1), two)
    assert slow_elsewhere(torch.zeros(1, 4, 9, 4), weight, (1, 1), two)
    assert not slow_elsewhere(torch.zeros(1, 4, 5, 5), weight, (1, 1), two)
    assert not slow_elsewhere(torch.zeros(1, 4, 4, 4), weight, (2, 2), (1, 2, 1, 2))  # padded to 7 px beforehand
    assert not slow_elsewhere(torch.zeros(1, 4, 4, 4, dtype=torch.bfloat16), weight, (1, 1), two)
    assert not slow_elsewhere(torch.zeros(1, 4, 4, 4), weight.detach(), (1, 1), two)


def test_a_network_trains_by_it_as_by_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, ...]] = []

    def counted(x: torch.Tensor, *rest: object) -> torch.Tensor:
        used.append(tuple(x.shape))
        return depthwise(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "depthwise", counted)
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
    targets = np.eye(3, dtype=np.float32)[np.arange(8) % 3]

    def trained(native: bool) -> keras.Model:
        keras.utils.set_random_seed(5)
        inputs = layers.Input((12, 12, 3))
        x = layers.Conv2D(8, 3, strides=3, activation="relu")(layers.Rescaling(1 / 255)(inputs))  # 4 px
        x = layers.DepthwiseConv2D(5, padding="same", use_bias=False)(x)
        x = layers.Conv2D(8, 3, groups=8, padding="same")(layers.AveragePooling2D(2)(x))  # 2 px
        core = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
        model = NativeModel(core) if native else core
        compile_classifier(model, FusedSGD(0.1))
        model.fit(images, targets, batch_size=8, epochs=3, shuffle=False, verbose=0)
        return model

    ours, theirs = trained(True), trained(False)
    assert set(used) == {(8, 8, 4, 4), (8, 8, 2, 2)}
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5)


def test_shapes_of_weights_are_kept() -> None:
    found = weight_gradient(torch.ones(2, 4, 2, 2), torch.ones(2, 4, 2, 2), torch.Size((4, 1, 3, 3)), (1, 1), (1, 1))
    assert found.shape == (4, 1, 3, 3)
    assert found[0, 0].tolist() == [[2, 4, 2], [4, 8, 4], [2, 4, 2]]
