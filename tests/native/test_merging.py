"""Layers that a program computes together give what they give one by one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import layers
from small_networks import small_networks

from kcv.config import ModelConfig
from kcv.models import registry
from kcv.native.layers.lowered import Target
from kcv.native.lowering import lower
from kcv.native.precision import precision_scope

FORMATS = ("channels_first", "channels_last")


def images(data_format: str = "channels_last", count: int = 5) -> torch.Tensor:
    shape = (3, 9, 9) if data_format == "channels_first" else (9, 9, 3)
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32))


def padded(convolution: Any, sides: Any = 1, data_format: str = "channels_last", readers: int = 1) -> keras.Model:
    """Puts a convolution behind a layer that pads with zeros, and that as many layers read."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 9, 9) if data_format == "channels_first" else (9, 9, 3))
    x = layers.Conv2D(6, 1, activation="relu", data_format=data_format)(inputs)
    x = layers.ZeroPadding2D(sides, data_format=data_format, name="pad")(x)
    read = [convolution(x)]
    read += [layers.GlobalAveragePooling2D(data_format=data_format)(x) for _ in range(readers - 1)]
    return keras.Model(inputs, [*read] if readers > 1 else read[0])


def names(model: keras.Model, **options: Any) -> list[str]:
    return [step.name for step in lower(model, Target(**options)).steps]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(
    "kind",
    ["plain", "strided", "depthwise, two each", "activated", "uneven", "dilated", "grouped, without bias", "one side"],
)
def test_a_convolution_pads_its_own_input(kind: str, data_format: str, policy: str, assert_parity: Any) -> None:
    with precision_scope(policy):
        convolution, sides = {
            "plain": lambda: (layers.Conv2D(4, 3, data_format=data_format), 1),
            "strided": lambda: (layers.Conv2D(4, 3, strides=2, data_format=data_format), 1),
            "depthwise, two each": lambda: (
                layers.DepthwiseConv2D(5, strides=2, depth_multiplier=2, data_format=data_format), 2
            ),
            "activated": lambda: (layers.Conv2D(4, 3, activation="sigmoid", data_format=data_format), 1),
            "uneven": lambda: (layers.Conv2D(4, (3, 5), data_format=data_format), (1, 2)),
            "dilated": lambda: (layers.Conv2D(4, 3, dilation_rate=2, data_format=data_format), 3),
            "grouped, without bias": lambda: (
                layers.Conv2D(4, 3, groups=2, use_bias=False, data_format=data_format), 1
            ),
            "one side": lambda: (layers.DepthwiseConv2D(3, strides=2, data_format=data_format), ((0, 1), (0, 2))),
        }[kind]()  # fmt: skip
        model = padded(convolution, sides, data_format)
    assert "pad" not in names(model)
    assert "pad" in names(model, keeps_layers=True)
    tolerance = 1e-4 if policy == "float32" else 0.05
    target = Target(memory_format=torch.channels_last)
    program = assert_parity(model, images(data_format), tolerance=tolerance, target=target)
    with torch.no_grad():
        differ = program.first_mismatch(images(data_format), differ=lambda a, b: a.shape != b.shape)
    assert differ is None  # its reference pads, too


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: padded(layers.Conv2D(4, 3, padding="same")), "the convolution pads by itself, from another size"),
        (lambda: padded(layers.Conv2D(4, 1)), "a window of one pixel"),
        (lambda: padded(layers.Conv2D(4, 3), readers=2), "another layer reads it"),
        (lambda: padded(layers.MaxPooling2D(3)), "a pooling pads with the lowest number"),
        (lambda: padded(layers.Conv2D(4, 3, dtype="float64")), "the padding is in float32"),
        (lambda: padded(layers.ZeroPadding2D(2, name="second")), "no convolution"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_padding_stays_a_step(model: Any, reason: str, assert_parity: Any) -> None:
    made = model()
    assert "pad" in names(made), reason
    if len(made.outputs) == 1:
        assert_parity(made, images())


def test_of_two_paddings_the_convolution_takes_the_one_in_front_of_it(assert_parity: Any) -> None:
    inputs = keras.Input((9, 9, 3))
    x = layers.ZeroPadding2D(2, name="first")(inputs)
    x = layers.ZeroPadding2D(1, name="second")(x)
    model = keras.Model(inputs, layers.Conv2D(4, 3)(x))
    assert {"first", "second"} & set(names(model)) == {"first"}
    assert_parity(model, images())


def test_padding_that_is_an_output_stays(assert_parity: Any) -> None:
    inputs = keras.Input((9, 9, 3))
    x = layers.ZeroPadding2D(1, name="pad")(inputs)
    model = keras.Model(inputs, [layers.Conv2D(4, 3)(x), x])
    assert "pad" in names(model)
    assert [tuple(made.shape) for made in lower(model)(images(), training=False)] == [(5, 9, 9, 4), (5, 11, 11, 3)]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_networks_have_no_padding_left_in_front_of_convolutions(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    with small_networks():
        model = registry.build(ModelConfig(name=name, weights="none"), 64, 5, pixels)
    left = [step.name for step in lower(model).steps if isinstance(step.operation, layers.ZeroPadding2D)]
    assert left == [layer for layer in left if layer.startswith("pool")]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("data_format", FORMATS)
def test_a_convolution_of_one_pixel_is_a_product(
    data_format: str, policy: str, assert_parity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in squeeze-and-excitation: oneDNN and cuDNN are slow where a window moves nowhere."""
    keras.utils.set_random_seed(0)
    shape = (1, 1, 8) if data_format == "channels_last" else (8, 1, 1)
    with precision_scope(policy):
        inputs = keras.Input(shape)
        x = layers.Conv2D(4, 1, activation="relu", data_format=data_format)(inputs)
        x = layers.Conv2D(6, 1, strides=2, padding="same", use_bias=False, data_format=data_format)(x)
        model = keras.Model(inputs, x)
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32))
    program = assert_parity(model, pixels, tolerance=1e-4 if policy == "float32" else 0.05)

    def never(*_: Any) -> None:
        raise AssertionError("a convolution was called")

    with monkeypatch.context() as patch:
        patch.setattr(F, "conv2d", never)
        assert program(pixels, training=True).shape == (5, *((1, 1, 6) if shape[0] == 1 else (6, 1, 1)))


def normalised(convolution: Any, *, learns: bool = False, data_format: str = "channels_last") -> keras.Model:
    """Puts a normalisation with statistics of its own behind a convolution, and a padding layer in front of it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 9, 9) if data_format == "channels_first" else (9, 9, 3))
    x = convolution(layers.ZeroPadding2D(1, data_format=data_format)(inputs))
    norm = layers.BatchNormalization(axis=1 if data_format == "channels_first" else 3, name="norm")
    outputs = layers.ReLU()(norm(x))
    rng = np.random.default_rng(1)
    norm.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in norm.get_weights()])
    norm.trainable = learns
    return keras.Model(inputs, outputs)


NORMALISED = {
    "plain": lambda data_format: layers.Conv2D(4, 3, use_bias=False, data_format=data_format),
    "with a bias": lambda data_format: layers.Conv2D(4, 3, data_format=data_format),
    "padded to the same size": lambda data_format: layers.Conv2D(4, 3, padding="same", data_format=data_format),
    "depthwise": lambda data_format: layers.DepthwiseConv2D(3, depth_multiplier=2, data_format=data_format),
    "one pixel": lambda data_format: layers.Conv2D(4, 1, data_format=data_format),
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("kind", NORMALISED.keys())
def test_a_convolution_normalises_by_fixed_statistics(
    kind: str, data_format: str, assert_parity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kcv.native.merging._LEAST_PIXELS", 1)
    model = normalised(NORMALISED[kind](data_format), data_format=data_format)
    assert len(names(model)) < len(names(model, keeps_layers=True))
    calls = counted(monkeypatch)
    assert_parity(model, images(data_format), tolerance=1e-4, target=Target(memory_format=torch.channels_last))
    assert not calls


def test_half_precision_keeps_the_normalisation() -> None:
    with precision_scope("mixed_bfloat16"):
        model = normalised(layers.Conv2D(4, 3))
    assert "conv2d" in " ".join(names(model))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Returns what is appended to whenever a normalisation is computed by itself: whether by the batch's statistics."""
    calls: list[bool] = []
    plain = torch.batch_norm

    def batch_norm(*given: Any) -> torch.Tensor:
        calls.append(given[5])
        return plain(*given)

    monkeypatch.setattr(torch, "batch_norm", batch_norm)
    return calls


def test_one_that_learns_is_merged_in_inference_alone(monkeypatch: pytest.MonkeyPatch, assert_parity: Any) -> None:
    monkeypatch.setattr("kcv.native.merging._LEAST_PIXELS", 1)
    model = normalised(layers.Conv2D(4, 3), learns=True)
    program = assert_parity(model, images(), tolerance=1e-4)
    calls = counted(monkeypatch)
    program(images(), training=True)
    assert calls == [True]
    program(images(), training=False)
    assert calls == [True]
    model.get_layer("norm").trainable = False
    program(images(), training=True)
    assert calls == [True]


def test_few_pixels_are_normalised_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lower(normalised(layers.Conv2D(4, 3)))
    calls = counted(monkeypatch)
    program(images(count=2), training=False)
    assert calls == [False]
    program(images(count=32), training=False)
    assert calls == [False]


def test_an_activation_or_another_reader_keeps_the_normalisation() -> None:
    assert "norm" in names(normalised(layers.Conv2D(4, 3, activation="relu")))
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    model = keras.Model(inputs, [layers.BatchNormalization(name="norm")(x), layers.ReLU()(x)])
    assert "conv" in names(model)
