"""Convolutions of images with few pixels: the same outputs and gradients by other ways."""

from __future__ import annotations

import keras
import pytest
import torch
import torch.nn.functional as F
from keras import layers
from torch import Tensor

from kcv.native.kernels import Sides
from kcv.native.layers import windows
from kcv.native.layers.few_pixels import convolution, few_pixels
from kcv.native.model import NativeModel, compile_classifier, native_target
from kcv.native.optimizers import FusedSGD
from kcv.native.precision import precision_scope

LAST = torch.channels_last
NONE = (0, 0, 0, 0)
CASES: dict[str, tuple[tuple[int, int], tuple[int, int], Sides, tuple[int, int]]] = {
    "1x1": ((1, 1), (1, 1), NONE, (2, 2)),
    "1x1, strided": ((1, 1), (2, 2), NONE, (4, 4)),
    "1x1, padded": ((1, 1), (1, 1), (1, 0, 0, 0), (2, 1)),
    "3x3": ((3, 3), (1, 1), (1, 1, 1, 1), (2, 2)),
    "3x3 in 1 px": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "3x3, strided": ((3, 3), (2, 2), (1, 1, 1, 1), (4, 4)),
    "3x3, more padding at the end": ((3, 3), (2, 2), (0, 1, 0, 1), (4, 4)),
    "3x3 without padding": ((3, 3), (1, 1), NONE, (4, 4)),
    "2x2, padded at the end": ((2, 2), (1, 1), (0, 1, 0, 1), (2, 2)),
    "5x3 in a strip": ((5, 3), (1, 2), (1, 1, 2, 2), (1, 7)),
    "rest that no window reaches": ((3, 3), (2, 2), NONE, (4, 6)),
}


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.randn(shape, dtype=dtype)
    return tensor.to(memory_format=LAST) if len(shape) == 4 else tensor


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
def test_outputs_and_gradients_are_those_of_torch(
    case: tuple[tuple[int, int], tuple[int, int], Sides, tuple[int, int]], dtype: torch.dtype, biased: bool
) -> None:
    kernel, stride, sides, size = case
    torch.manual_seed(0)
    given = [random(3, 8, *size, dtype=dtype), random(16, 8, *kernel, dtype=dtype), random(16, dtype=dtype)]
    theirs, ours = ([tensor.clone().requires_grad_() for tensor in given[: 2 + biased]] for _ in range(2))
    expected = F.conv2d(F.pad(theirs[0], sides), theirs[1], theirs[2] if biased else None, stride)
    found = convolution(ours[0], ours[1], ours[2] if biased else None, stride, sides)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found, expected, **tolerance)
    assert found.is_contiguous(memory_format=LAST)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, **tolerance)
    assert ours[1].grad is not None
    assert ours[1].grad.is_contiguous(memory_format=LAST)  # as the optimizer needs it


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_what_is_asked_for_is_computed(wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "kcv.native.layers.few_pixels"
    given = [random(2, 4, 2, 2), random(8, 4, 3, 3)]
    given[wanted].requires_grad_()
    found = convolution(given[0], given[1], None, (1, 1), (1, 1, 1, 1))
    monkeypatch.setattr(f"{module}.{'product' if wanted == 0 else 'image_gradient'}", lambda *given: 1 / 0)
    found.sum().backward()
    assert given[wanted].grad is not None


USED = {
    "2x2 pixels": ((32, 1024, 2, 2), (256, 1024, 1, 1), torch.float32, True),
    "1 pixel": ((32, 256, 1, 1), (256, 256, 3, 3), torch.float32, True),
    "two images of 4x4": ((2, 256, 4, 4), (256, 256, 3, 3), torch.float32, True),
    "four images of 4x4": ((4, 256, 4, 4), (256, 256, 3, 3), torch.float32, False),
    "the same in bfloat16": ((4, 256, 4, 4), (256, 256, 3, 3), torch.bfloat16, True),
    "larger images in bfloat16": ((32, 256, 8, 8), (256, 256, 3, 3), torch.bfloat16, False),
    "a small kernel": ((32, 256, 2, 2), (64, 256, 1, 1), torch.float32, False),
    "the same kernel in bfloat16": ((32, 256, 2, 2), (64, 256, 1, 1), torch.bfloat16, True),
    "float64": ((32, 1024, 2, 2), (256, 1024, 1, 1), torch.float64, False),
    "no images": ((0, 1024, 2, 2), (256, 1024, 1, 1), torch.float32, False),
}


@pytest.mark.parametrize(("x", "kernel", "dtype", "used"), USED.values(), ids=USED)
def test_they_are_used_where_they_are_faster(
    x: tuple[int, ...], kernel: tuple[int, ...], dtype: torch.dtype, used: bool
) -> None:
    pad = kernel[2] // 2
    given = torch.zeros(x, dtype=dtype).to(memory_format=LAST), torch.zeros(kernel, dtype=dtype).to(memory_format=LAST)
    expected = used and torch.backends.mkldnn.is_available()
    assert few_pixels(*given, (1, 1), (pad, pad, pad, pad)) is expected


def test_contiguous_memory_is_left_to_torch() -> None:
    x, kernel = torch.zeros(32, 1024, 2, 2), torch.zeros(256, 1024, 3, 3)
    assert not few_pixels(x, kernel.to(memory_format=LAST), (1, 1), (1, 1, 1, 1))
    assert not few_pixels(x.to(memory_format=LAST), kernel, (1, 1), (1, 1, 1, 1))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_network_trains_as_with_torchs_own(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []

    def counted(x: Tensor, *given: object) -> Tensor:
        calls.append(x.shape)
        return convolution(x, *given)  # type: ignore[arg-type]

    def trained() -> list[Tensor]:
        keras.utils.set_random_seed(1)
        with precision_scope(policy):
            inputs = keras.Input((4, 4, 3))
            x = layers.Conv2D(256, 3, strides=2, padding="same")(inputs)
            x = layers.ReLU()(layers.Conv2D(256, 3, padding="same", use_bias=False)(x))
            x = layers.ReLU()(layers.Conv2D(512, 1)(x))
            logits = layers.Dense(2, dtype="float32")(layers.GlobalAveragePooling2D()(x))
            core = keras.Model(inputs, logits)
        model = NativeModel(core, target=native_target("cpu"))
        compile_classifier(model, FusedSGD(0.01, momentum=0.9))
        images = torch.rand(8, 4, 4, 3, generator=torch.Generator().manual_seed(0))
        targets = F.one_hot(torch.arange(8) % 2, 2).float()
        model.fit(images, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)
        return [variable.value.detach().clone() for variable in model.trainable_variables]

    monkeypatch.setattr(windows, "convolution", counted)
    ours, again = trained(), trained()
    assert (torch.Size((4, 256, 2, 2)) in calls) is torch.backends.mkldnn.is_available()
    monkeypatch.setattr(windows, "few_pixels", lambda *given: False)
    for mine, same, theirs in zip(ours, again, trained(), strict=True):
        assert torch.equal(mine, same)
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-5 if policy == "float32" else 2e-3)
