"""Kernels in C: the numbers of torch, the same for any number of threads, and no harm where they cannot be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import layers

from kcv.native import kernels as compiled
from kcv.native.kernels import ACTIVATIONS, SIZES, Kernels, Sides, Window, library
from kcv.native.layers import fused_normalization
from kcv.native.layers.depthwise import depthwise, slow_elsewhere
from kcv.native.layers.lowered import Target
from kcv.native.lowering import lower
from kcv.native.model import NativeModel, compile_classifier, native_target
from kcv.native.optimizers import FusedSGD
from kcv.native.precision import precision_scope

TORCH = {"linear": lambda z: z, "relu": F.relu, "relu6": F.relu6, "silu": F.silu}


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    if library.compiler() is None:
        pytest.skip("no C compiler")
    found = compiled.load()
    assert found is not None, "there is a C compiler, but its kernels cannot be used"
    return found


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test compile the kernels again; those of the other tests stay as they are."""
    monkeypatch.setattr(compiled, "load", library.load.__wrapped__)


def images(*shape: int, offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + offset
    return drawn.contiguous(memory_format=torch.channels_last)


def nearly(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    scale = float(expected.abs().max()) or 1.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "shape", [(2, 16, 5, 5), (1, 1, 3, 2), (3, 17, 1, 1), (2, 40, 7, 3), (1, 1200, 2, 2), (5, 3, 33, 31)], ids=str
)
def test_normalisation_and_its_gradients_are_those_of_torch(
    kernels: Kernels, activation: str, shape: tuple[int, ...]
) -> None:
    x, gradient = images(*shape), images(*shape, seed=1)
    gamma, beta = torch.linspace(0.5, 1.5, shape[1]), torch.linspace(-1, 5, shape[1])
    exact = [tensor.double().requires_grad_() for tensor in (x, gamma, beta)]
    variance, mean = torch.var_mean(exact[0], (0, 2, 3), correction=0)
    normal = (exact[0] - mean[:, None, None]) / (variance + 1e-3).sqrt()[:, None, None]
    expected = TORCH[activation](normal * exact[1][:, None, None] + exact[2][:, None, None])
    expected.backward(gradient.double())

    ours = [tensor.clone(memory_format=torch.preserve_format).requires_grad_() for tensor in (x, gamma, beta)]
    y, batch_mean, batch_variance = fused_normalization.normalize(*ours, 1e-3, activation, kernels)
    y.backward(gradient)

    nearly(y.detach(), expected.detach())
    for a, b in zip(ours, exact, strict=True):
        assert a.grad is not None and b.grad is not None
        nearly(a.grad, b.grad)
    nearly(batch_mean, mean.detach())
    rows = x.numel() // shape[1]
    nearly(batch_variance, variance.detach() * rows / (rows - 1))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_far_from_zero_it_is_as_exact_as_torch(kernels: Kernels) -> None:
    x, gamma, beta = images(4, 24, 20, 20, offset=1000.0), torch.linspace(0.5, 1.5, 24), torch.linspace(-1, 5, 24)
    exact = torch.batch_norm(x.double(), gamma.double(), beta.double(), None, None, True, 1.0, 1e-3, False)
    theirs = torch.batch_norm(x, gamma, beta, None, None, True, 1.0, 1e-3, False)
    ours = kernels.normalize(x, gamma, beta, 1e-3, "linear").y
    assert (ours - exact).abs().max() <= 1.5 * (theirs - exact).abs().max()


@pytest.mark.parametrize("activation", ["relu", "relu6", "silu"])
def test_extreme_values_are_those_of_torch(kernels: Kernels, activation: str) -> None:
    # The two pixels are scaled to -beta and +beta around a mean of 0.
    betas = torch.tensor([0.0, 1.0, 3.0, 6.0, 50.0, 87.0, 100.0, 1e4])
    x = torch.tensor([-1.0, 1.0]).reshape(1, 1, 2, 1).repeat(1, len(betas), 1, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    gradients = []
    for function in (lambda z: fused_normalization.normalize(*z, 0.0, activation, kernels)[0],
                     lambda z: TORCH[activation](torch.batch_norm(*z, None, None, True, 1.0, 0.0, False))):  # fmt: skip
        given = [tensor.clone(memory_format=torch.preserve_format).requires_grad_() for tensor in (x, betas, betas)]
        y = function(given)
        y.sum().backward()
        gradients.append((y.detach(), given[1].grad, given[2].grad))
    for found, expected in zip(*gradients, strict=True):
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_no_number_stays_none(kernels: Kernels, activation: str) -> None:
    x = images(2, 20, 4, 4)
    x[1, 3, 2, 2] = float("nan")
    x[0, 5, 0, 0] = float("inf")
    found = kernels.normalize(x, torch.ones(20), torch.zeros(20), 1e-3, activation)
    assert found.y[:, 3].isnan().all()
    assert found.y[0, 5, 0, 0].isnan()
    of_x, of_gamma, _ = kernels.normalize_gradient(
        torch.ones_like(x), x, found.mean, found.inverse, found.scale, torch.zeros(20), activation
    )
    assert of_x[:, 3].isnan().all() and of_gamma[3].isnan()
    rest = [channel for channel in range(20) if channel not in (3, 5)]
    assert found.y[:, rest].isfinite().all() and of_x[:, rest].isfinite().all()


def test_numbers_that_overflow_do_not_come_back_as_small_ones(kernels: Kernels) -> None:
    x = images(2, 20, 4, 4)
    x[:, 4] *= 1e25
    found = kernels.normalize(x, torch.ones(20), torch.zeros(20), 1e-3, "relu").y
    assert found[:, 4].isnan().all() and found[:, 5:].isfinite().all()


WINDOWS = [
    (1, (2, 2, 2, 2), (9, 9)),
    (2, (2, 2, 2, 2), (8, 6)),
    (1, (3, 3, 3, 3), (2, 2)),
    (2, (3, 3, 3, 3), (1, 3)),
    (1, (0, 0, 0, 0), (8, 8)),
    (3, (1, 1, 1, 1), (17, 11)),
    (2, (0, 0, 0, 0), (16, 9)),
    (2, (0, 1, 0, 1), (8, 8)),
    (2, (1, 2, 2, 2), (8, 7)),
    (3, (4, 0, 0, 5), (7, 5)),
    (9, (0, 0, 0, 0), (8, 8)),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("stride", "sides", "pixels"), WINDOWS, ids=str)
@pytest.mark.parametrize("more", [0, 7, 40])
def test_depthwise_convolutions_and_their_gradients_are_those_of_torch(
    kernels: Kernels, size: int, stride: int, sides: Sides, pixels: tuple[int, int], more: int
) -> None:
    channels, window = kernels.fewest_channels + more, Window(size, stride, sides)
    x, weight, bias = images(3, channels, *pixels), images(channels, 1, size, size, seed=1), torch.randn(channels)
    if min(pixels[0] + sum(sides[2:]), pixels[1] + sum(sides[:2])) < size:
        pytest.skip("no window fits")
    exact = [tensor.double().requires_grad_() for tensor in (x, weight)]
    y = F.conv2d(F.pad(exact[0], sides), exact[1], bias.double(), stride, groups=channels)
    gradient = images(*y.shape)
    y.backward(gradient.double())
    assert exact[0].grad is not None and exact[1].grad is not None
    nearly(kernels.depthwise(x, weight, bias, window), y.detach())
    nearly(kernels.depthwise(x, weight, None, window), y.detach() - bias.double()[:, None, None])
    nearly(kernels.depthwise_image_gradient(gradient, x, weight, window), exact[0].grad)
    nearly(kernels.depthwise_weight_gradient(gradient, x, window), exact[1].grad)


@pytest.mark.parametrize(
    ("stride", "sides"), [(1, (2, 2, 2, 2)), (1, (1, 2, 0, 0)), (2, (1, 2, 1, 2)), (2, (2, 2, 2, 2))], ids=str
)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "first"])
def test_autograd_gets_all_three_gradients(
    kernels: Kernels, stride: int, sides: Sides, layout: torch.memory_format
) -> None:
    channels = kernels.fewest_channels
    given = [
        images(2, channels, 8, 9).contiguous(memory_format=layout),
        images(channels, 1, 5, 5),
        torch.randn(channels),
    ]
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in given] for _ in range(2))
    found = depthwise(*ours, (stride, stride), sides, kernels)
    expected = F.conv2d(F.pad(theirs[0], sides), *theirs[1:], stride, groups=channels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(expected)
    found.backward(gradient)
    expected.backward(gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        nearly(a.grad, b.grad)


def test_the_number_of_threads_changes_no_bit(kernels: Kernels) -> None:
    x, gradient, weight = images(6, 72, 30, 30), images(6, 72, 30, 30), images(72, 1, 3, 3)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            found = kernels.normalize(x, torch.ones(72), torch.zeros(72), 1e-3, "silu")
            back = kernels.normalize_gradient(
                gradient, x, found.mean, found.inverse, found.scale, torch.zeros(72), "silu"
            )
            of_weight = kernels.depthwise_weight_gradient(gradient, x, Window(5, 1, (2, 2, 2, 2)))
            moving = Window(3, 2, (0, 1, 0, 1))
            y = kernels.depthwise(x, weight, None, moving)
            of_x = kernels.depthwise_image_gradient(y, x, weight, moving)
            results.append((found.y, found.mean, found.variance, *back, of_weight, y, of_x))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(layers.Rescaling(1 / 255)(inputs))
    x = layers.Activation("silu")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(5, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(scale=False)(x))
    x = layers.DepthwiseConv2D(5, strides=2, padding="same", use_bias=False)(x)  # padded unevenly
    x = layers.Activation("relu")(layers.BatchNormalization(center=False)(x))
    y = layers.BatchNormalization(name="read_twice")(layers.Conv2D(16, 1)(x))
    x = layers.Add()([layers.Activation("relu")(y), layers.Activation("silu")(y), x])
    x = layers.Activation("tanh")(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def trained(target: Target, batches: int = 4) -> keras.Model:
    core = network()
    pixels = np.random.default_rng(0).integers(0, 256, (8 * batches, 12, 12, 3), dtype=np.uint8)
    targets = np.eye(3, dtype=np.float32)[np.arange(len(pixels)) % 3]
    model = NativeModel(core, target=target)
    compile_classifier(model, FusedSGD(0.05))
    model.fit(pixels, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return core


def test_a_network_trains_by_them_as_without(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions = ("depthwise", "depthwise_image_gradient", "depthwise_weight_gradient")
    calls: dict[str, list[Any]] = {name: [] for name in ("normalize", *convolutions)}
    for name, seen in calls.items():
        original = getattr(Kernels, name)

        def counted(self: Any, *given: Any, original: Any = original, seen: list[Any] = seen) -> Any:
            seen.append(given[-1].stride if isinstance(given[-1], Window) else given[-1])
            return original(self, *given)

        monkeypatch.setattr(Kernels, name, counted)
    ours = trained(native_target("cpu", network(), cpu_kernels=True))
    assert set(calls["normalize"]) == {"silu", "relu6", "relu", "linear"}
    assert len(calls["normalize"]) == 5 * 8
    assert [set(calls[name]) for name in convolutions] == [{2}, {2}, {1, 2}]
    calls["normalize"].clear()
    theirs = trained(native_target("cpu", network()))
    assert not calls["normalize"]
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-4, err_msg=a.path)


def test_an_activation_is_joined_only_to_what_it_alone_reads(kernels: Kernels) -> None:
    model = network()
    with_kernels = [step.name for step in lower(model, Target(torch.channels_last, kernels=kernels)).steps]
    without = [step.name for step in lower(model, Target(torch.channels_last)).steps]
    kept = {layer.name for layer in model.layers if isinstance(layer, layers.Activation)}
    # The three behind the first normalisations go by their own names; "read_twice" and tanh have steps of their own.
    assert len(without) - len(with_kernels) == 3
    assert kept <= set(with_kernels)
    assert "read_twice" in with_kernels


def test_outputs_in_inference_are_those_of_keras(kernels: Kernels) -> None:
    model = network()
    program = lower(model, Target(torch.channels_last, kernels=kernels))
    x = torch.rand(64, 12, 12, 3) * 255  # enough pixels for normalisation to go into the kernels
    with torch.no_grad():
        torch.testing.assert_close(
            program(x, training=False), torch.as_tensor(model(x, training=False)), rtol=1e-4, atol=1e-5
        )


def test_they_are_for_training_on_cpus_in_float32(kernels: Kernels) -> None:
    assert native_target("cpu", network(), cpu_kernels=True).kernels is kernels
    assert native_target("cpu", network()).kernels is None
    assert native_target("cuda", network(), cpu_kernels=True).kernels is None
    with precision_scope("mixed_bfloat16"):
        assert native_target("cpu", network(), cpu_kernels=True).kernels is None
    frozen = network()
    frozen.trainable = False
    assert native_target("cpu", frozen, cpu_kernels=True).kernels is None
    x = images(2, 16, 4, 4)
    assert fused_normalization.takes(x)
    assert not fused_normalization.takes(x.contiguous())
    assert not fused_normalization.takes(x.bfloat16())
    assert not fused_normalization.takes(x[:, :, 0, 0])


def test_windows_that_no_kernel_takes(kernels: Kernels) -> None:
    few = kernels.fewest_channels
    x, weight = images(2, few, 9, 9), torch.zeros(few, 1, 5, 5, requires_grad=True)
    two = (2, 2, 2, 2)
    assert slow_elsewhere(x, weight, (1, 1), two, kernels)
    assert not slow_elsewhere(x, weight, (1, 1), two)
    assert not slow_elsewhere(x, weight, (1, 2), two, kernels)
    assert not slow_elsewhere(x, weight.detach(), (1, 1), two, kernels)
    assert not slow_elsewhere(x[:, 1:], weight[1:], (1, 1), two, kernels)
    assert not slow_elsewhere(x, weight[..., :3], (1, 1), two, kernels)
    small = torch.zeros(few, 1, 3, 3, requires_grad=True)
    assert not slow_elsewhere(x, small, (1, 1), (1, 1, 1, 1), kernels)
    assert not slow_elsewhere(x, small, (2, 2), (1, 1, 1, 1), kernels)
    assert slow_elsewhere(x, small, (2, 2), (0, 1, 0, 1), kernels)


def test_statistics_of_all_processes_are_left_to_torch(kernels: Kernels) -> None:
    model = network()
    target = Target(torch.channels_last, kernels=kernels, all_reduce_sum=lambda sums: sums)
    names = [step.name for step in lower(model, target).steps]
    assert names == [step.name for step in lower(model, Target(torch.channels_last)).steps]


COMPILERS = {
    "none": "",
    "not there": "/no/such/compiler",
    "one that fails": "false",
    "one that makes nothing": "true",
    "an odd word": "cc -no-such-flag",
    "no words": "cc 'open",
    "blanks": "  ",
    "other names": "cc -Dnormalise=other",
    "an unknown OpenMP": "cc -Domp_get_thread_num=no_such_function -Dnormalise_gradient=omp_get_thread_num",
}


@pytest.mark.parametrize("command", COMPILERS.values(), ids=COMPILERS.keys())
@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_that_works_torch_computes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", command)
    if not command:
        monkeypatch.setenv("PATH", "")
    assert compiled.load() is None
    assert native_target("cpu", network(), cpu_kernels=True).kernels is None


@pytest.mark.usefixtures("fresh")
def test_kernels_that_compute_something_else_are_not_used(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "cc -Dsqrt=fabs")
    assert compiled.load() is None
    assert "compute something else than torch" in caplog.text


@pytest.mark.usefixtures("fresh")
def test_compiling_leaves_nothing_behind(kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    state = torch.get_rng_state()
    assert compiled.load() is not None
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), state)
