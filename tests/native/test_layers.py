from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers, regularizers

from kcv.native.layers import CONVOLUTIONS, LOWERINGS, REARRANGING, lowered
from kcv.native.layers.lowered import Lowered, Target, lowers
from kcv.native.lowering import lower
from kcv.native.precision import precision_scope

FORMATS = ("channels_first", "channels_last")
SIZE, CHANNELS = 9, 6

IMAGE_LAYERS: dict[str, Callable[[str], Any]] = {
    "conv": lambda f: layers.Conv2D(8, 3, data_format=f),
    "conv same": lambda f: layers.Conv2D(8, 3, padding="same", data_format=f),
    "conv same, even kernel": lambda f: layers.Conv2D(8, 4, padding="same", data_format=f),
    "conv same, strided": lambda f: layers.Conv2D(8, 3, strides=2, padding="same", data_format=f),
    "conv same, uneven": lambda f: layers.Conv2D(8, (2, 5), strides=(2, 1), padding="same", data_format=f),
    "conv dilated": lambda f: layers.Conv2D(8, 3, dilation_rate=2, padding="same", data_format=f),
    "conv grouped": lambda f: layers.Conv2D(8, 3, groups=2, data_format=f),
    "conv relu": lambda f: layers.Conv2D(8, 1, activation="relu", data_format=f),
    "conv sigmoid": lambda f: layers.Conv2D(8, 1, activation="sigmoid", data_format=f),
    "conv no bias": lambda f: layers.Conv2D(8, 3, use_bias=False, data_format=f),
    "conv frozen": lambda f: layers.Conv2D(8, 3, trainable=False, data_format=f),
    "depthwise": lambda f: layers.DepthwiseConv2D(3, padding="same", data_format=f),
    "depthwise strided": lambda f: layers.DepthwiseConv2D(5, strides=2, padding="same", data_format=f),
    "depthwise, two each": lambda f: layers.DepthwiseConv2D(3, depth_multiplier=2, data_format=f),
    "depthwise of a pixel": lambda f: layers.DepthwiseConv2D(1, use_bias=False, data_format=f),
    "depthwise of a pixel, with bias": lambda f: layers.DepthwiseConv2D(1, data_format=f),
    "depthwise of a pixel, strided": lambda f: layers.DepthwiseConv2D(1, strides=2, use_bias=False, data_format=f),
    "depthwise of a pixel, relu": lambda f: layers.DepthwiseConv2D(1, use_bias=False, activation="relu", data_format=f),
    "layer norm": lambda f: layers.LayerNormalization(),
    "layer norm plain": lambda f: layers.LayerNormalization(axis=(3,), center=False, scale=False, epsilon=0.1),
    "norm": lambda f: layers.BatchNormalization(axis=1 if f == "channels_first" else -1),
    "norm plain": lambda f: layers.BatchNormalization(
        axis=1 if f == "channels_first" else 3, scale=False, center=False, momentum=0.5, epsilon=0.1
    ),
    "norm frozen": lambda f: layers.BatchNormalization(axis=1 if f == "channels_first" else -1, trainable=False),
    "max": lambda f: layers.MaxPooling2D(2, data_format=f),
    "max same": lambda f: layers.MaxPooling2D(2, padding="same", data_format=f),
    "max overlapping": lambda f: layers.MaxPooling2D(3, strides=2, padding="same", data_format=f),
    "average": lambda f: layers.AveragePooling2D(2, data_format=f),
    "average same": lambda f: layers.AveragePooling2D(3, strides=2, padding="same", data_format=f),
    "global average": lambda f: layers.GlobalAveragePooling2D(data_format=f),
    "global average, kept": lambda f: layers.GlobalAveragePooling2D(data_format=f, keepdims=True),
    "global max": lambda f: layers.GlobalMaxPooling2D(data_format=f),
    "padding": lambda f: layers.ZeroPadding2D(((1, 2), (0, 3)), data_format=f),
    "flatten": lambda f: layers.Flatten(data_format=f),
    "norm of rows": lambda f: layers.BatchNormalization(axis=1),
    "dropout seeded": lambda f: layers.Dropout(0.4, seed=7),
    "dropout of images": lambda f: layers.Dropout(0.4, noise_shape=(None, 1, 1, 1)),
    "dropout of rows": lambda f: layers.Dropout(0.4, noise_shape=(None, None, 1, None)),
    "dropout of nothing": lambda f: layers.Dropout(0.0),
    "spatial dropout": lambda f: layers.SpatialDropout2D(0.4, data_format=f),
}
"""Each is made for a data format; a convolution of the same format stands before and after it."""


def around(layer: Any, data_format: str, size: int | None = SIZE) -> keras.Model:
    """Puts a layer between two convolutions of one data format, so that it meets tensors in both layouts."""
    shape = (3, size, size) if data_format == "channels_first" else (size, size, 3)
    inputs = keras.Input(shape)
    x = layers.Conv2D(CHANNELS, 3, padding="same", data_format=data_format)(inputs)
    x = layer(x)
    if len(x.shape) == 4:
        x = layers.Conv2D(4, 1, data_format=data_format)(x)
    return keras.Model(inputs, x)


def images(data_format: str, size: int = SIZE, count: int = 5) -> torch.Tensor:
    shape = (3, size, size) if data_format == "channels_first" else (size, size, 3)
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("make", IMAGE_LAYERS.values(), ids=IMAGE_LAYERS.keys())
def test_an_image_layer_computes_what_keras_computes(
    make: Callable[[str], Any], data_format: str, memory_format: torch.memory_format, assert_parity: Any
) -> None:
    keras.utils.set_random_seed(0)
    assert_parity(around(make(data_format), data_format), images(data_format), target=Target(memory_format))


@pytest.mark.parametrize(
    "name",
    [
        "conv same, strided",
        "depthwise strided",
        "depthwise of a pixel",
        "max overlapping",
        "norm",
        "layer norm",
        "global average",
    ],
)
@pytest.mark.parametrize("policy", ["mixed_bfloat16"])
@pytest.mark.parametrize("data_format", FORMATS)
def test_an_image_layer_keeps_the_dtype_policy(name: str, policy: str, data_format: str, assert_parity: Any) -> None:
    keras.utils.set_random_seed(0)
    with precision_scope(policy):
        model = around(IMAGE_LAYERS[name](data_format), data_format)
    assert_parity(model, images(data_format), tolerance=0.03)


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_program_takes_images_of_any_size(data_format: str, assert_parity: Any) -> None:
    model = around(layers.Conv2D(8, 3, strides=2, padding="same", data_format=data_format), data_format, size=None)
    for size in (8, 9, 12):
        assert_parity(model, images(data_format, size, count=size))


def test_plain_dropout_draws_what_keras_draws(assert_parity: Any) -> None:
    inputs = keras.Input((CHANNELS,))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.4)(layers.Dense(50)(inputs))))
    assert_parity(model, torch.randn(20, CHANNELS))


def test_plain_dropout_of_a_moved_tensor_drops_and_scales() -> None:
    """Which values it drops depends on how they lie in memory, so they are not Keras'."""
    inputs = keras.Input((30, 30, 3))
    x = layers.ZeroPadding2D(0)(inputs)
    program = lower(keras.Model(inputs, layers.Dropout(0.25)(x)))
    assert program.fallback_layers == ()
    dropped = program(torch.ones(4, 30, 30, 3), training=True)
    values, counts = dropped.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0.0, 1 / 0.75])
    assert counts[0] / dropped.numel() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(program(torch.ones(4, 30, 30, 3), training=False), torch.ones(4, 30, 30, 3))


ELEMENTWISE: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: layers.Activation(name) for name in (
        "relu", "relu6", "silu", "gelu", "sigmoid", "tanh", "elu", "selu", "softplus", "mish", "hard_sigmoid",
        "hard_silu", "linear",
    )},
    "ReLU": lambda: layers.ReLU(),
    "ReLU6": lambda: layers.ReLU(max_value=6),
    "LeakyReLU": lambda: layers.LeakyReLU(0.2),
    "ELU": lambda: layers.ELU(0.7),
    "Softmax": lambda: layers.Softmax(),
    "Rescaling": lambda: layers.Rescaling(1 / 255),
    "Rescaling with offset": lambda: layers.Rescaling(2.0, offset=-1.0),
    "Normalization": lambda: layers.Normalization(mean=[0.1] * CHANNELS, variance=[2.0] * CHANNELS),
    "Reshape": lambda: layers.Reshape((-1, CHANNELS)),
    "Permute": lambda: layers.Permute((3, 1, 2)),
    "Identity": lambda: layers.Identity(),
    "Dense": lambda: layers.Dense(5),
    "Dense gelu": lambda: layers.Dense(5, activation="gelu", use_bias=False),
}  # fmt: skip


@pytest.mark.parametrize("make", ELEMENTWISE.values(), ids=ELEMENTWISE.keys())
def test_a_layer_after_a_moved_tensor_computes_what_keras_computes(make: Callable[[], Any], assert_parity: Any) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3, data_format="channels_last")(inputs)
    x = make()(layers.BatchNormalization()(x))
    assert_parity(keras.Model(inputs, layers.Flatten()(x)), images("channels_last"))


MERGING = (
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum, layers.Concatenate
)  # fmt: skip


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("merge", MERGING)
def test_branches_are_merged_as_keras_merges_them(merge: Any, data_format: str, assert_parity: Any) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, SIZE, SIZE) if data_format == "channels_first" else (SIZE, SIZE, 3))
    axis = 1 if data_format == "channels_first" else -1
    branches = [
        layers.BatchNormalization(axis=axis)(
            layers.Conv2D(CHANNELS, 3, padding="same", data_format=data_format)(inputs)
        )
        for _ in range(3 if merge is not layers.Subtract else 2)
    ]
    merged = merge(axis=axis)(branches) if merge is layers.Concatenate else merge()(branches)
    x = layers.Activation("relu")(merged)
    assert_parity(
        keras.Model(inputs, layers.Add()([x, branches[0]])) if merge is layers.Add else keras.Model(inputs, x),
        images(data_format),
    )


def test_a_channel_gate_is_broadcast(assert_parity: Any) -> None:
    """Squeeze and excitation, as EfficientNet has it: a plain tensor meets a moved one."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3)(inputs)
    gate = layers.Reshape((1, 1, CHANNELS))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(CHANNELS, 1, activation="sigmoid")(gate)
    assert_parity(keras.Model(inputs, layers.Multiply()([x, gate])), images("channels_last"))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_of_an_average_is_that_of_torch_and_takes_no_memory(dtype: torch.dtype, kept: bool) -> None:
    name = str(dtype).removeprefix("torch.")
    inputs = keras.Input((None, None, CHANNELS), dtype=name)
    layer = layers.GlobalAveragePooling2D(keepdims=kept, dtype=name)
    program = lower(keras.Model(inputs, layer(inputs)), Target(memory_format=torch.channels_last))
    x = torch.randn(2, 5, 7, CHANNELS).to(dtype).requires_grad_()
    averages = program(x, training=True)
    expected = x.mean((1, 2), keepdim=kept)
    weights = torch.randn(averages.shape).to(dtype)
    found, wanted = (torch.autograd.grad(of, x, weights)[0] for of in (averages, expected))
    torch.testing.assert_close(averages, expected)
    assert torch.equal(found, wanted)
    assert found.stride()[1:3] == (0, 0)  # torch writes each pixel, in a layout that is slow to add to others


def test_a_value_with_other_readers_is_not_overwritten(assert_parity: Any) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.BatchNormalization()(layers.Conv2D(CHANNELS, 3)(inputs))
    a, b = layers.ReLU()(x), layers.Activation("sigmoid")(x)
    c = layers.ReLU()(layers.Identity()(x))
    assert_parity(keras.Model(inputs, layers.Concatenate()([a, b, c, x])), images("channels_last"))


def test_a_single_value_for_each_channel_has_no_variance(assert_parity: Any) -> None:
    """One image of one pixel: torch's unbiased variance would be 0 / 0."""
    inputs = keras.Input((1, 1, 3))
    model = keras.Model(inputs, layers.BatchNormalization(beta_initializer="ones")(inputs))
    program = lower(model)
    ours = program(torch.ones(1, 1, 1, 3), training=True)
    assert torch.equal(ours.detach(), torch.ones(1, 1, 1, 3))
    assert torch.allclose(model.layers[-1].moving_variance.value, torch.full((3,), 0.99))
    assert_parity(model, torch.randn(1, 1, 1, 3))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_strided_pointwise_convolution_of_few_channels_is_computed_safely(padding: str, assert_parity: Any) -> None:
    """In channels_last, torch 2.15 itself corrupts memory here; Keras' channels_first is the reference."""
    for size in (9, 12) * 10:
        layer = layers.Conv2D(4, 1, strides=(2, 3), padding=padding, data_format="channels_first")
        model = around(layer, "channels_first", size=None)
        assert_parity(model, images("channels_first", size), target=Target(torch.channels_last))


AS_THEY_ARE: dict[str, Callable[[], Any]] = {
    "unknown class": lambda: layers.GaussianNoise(0.0),
    "unknown activation": lambda: layers.Conv2D(4, 3, activation=lambda x: x * 2),
    "subclass": lambda: type("Mine", (layers.ReLU,), {})(),
    "activity regularizer": lambda: layers.Conv2D(4, 3, activity_regularizer=regularizers.L2(0.1)),
    "softmax over two axes": lambda: layers.Softmax(axis=(1, 2)),
    "a scale for each channel": lambda: layers.Rescaling([1.0] * CHANNELS),
    "norm of columns": lambda: layers.BatchNormalization(axis=2),
    "cut ReLU": lambda: layers.ReLU(max_value=3, negative_slope=0.1, threshold=0.5),
    "transposed convolution": lambda: layers.Conv2DTranspose(4, 3),
    "layer norm of images": lambda: layers.LayerNormalization(axis=(1, 2, 3)),
    "group norm": lambda: layers.GroupNormalization(groups=2),
    "resizing": lambda: layers.UpSampling2D(2),
}


@pytest.mark.parametrize("make", AS_THEY_ARE.values(), ids=AS_THEY_ARE.keys())
def test_what_has_no_native_form_is_called_as_it_is(make: Callable[[], Any], assert_parity: Any) -> None:
    keras.utils.set_random_seed(0)
    layer = make()
    program = assert_parity(around(layer, "channels_last"), images("channels_last"), native=False)
    assert program.fallback_layers == (layer.name,)


def test_operations_of_keras_and_their_arguments_are_called_as_they_are(assert_parity: Any) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3)(inputs)
    x = keras.ops.pad(x * 2.0 + keras.ops.mean(x, axis=(1, 2), keepdims=True), ((0, 0), (1, 0), (0, 1), (0, 0)))
    assert_parity(keras.Model(inputs, layers.Conv2D(2, 1)(x)), images("channels_last"), native=False)


class Doubled(keras.Model):
    """A graph whose call is more than the graph."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return super().call(inputs, training=training) * 2


def test_a_nested_model_with_a_call_of_its_own_is_called_as_it_is(assert_parity: Any) -> None:
    inner = keras.Input((SIZE, SIZE, 3))
    nested = Doubled(inner, layers.Conv2D(3, 3)(inner))
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 1)(nested(inputs)))
    program = assert_parity(model, images("channels_last"), native=False)
    assert program.fallback_layers == (nested.name,)


def test_a_nested_model_takes_its_input_in_its_own_dtype(assert_parity: Any) -> None:
    inner = keras.Input((SIZE, SIZE, 3), dtype="bfloat16")
    nested = keras.Sequential([layers.Conv2D(4, 3, dtype="float32")])
    inputs = keras.Input((SIZE, SIZE, 3))
    assert_parity(keras.Model(inputs, keras.Model(inner, nested(inner))(inputs)), images("channels_last"))


def test_a_sequential_model_is_lowered(assert_parity: Any) -> None:
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    assert_parity(model, images("channels_last"))


def test_several_inputs_and_outputs(assert_parity: Any) -> None:
    a, b = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(3)
    model = keras.Model([a, b], [layers.Add()([shared(a), shared(b)]), shared(a)])
    program = lower(model)
    x, y = torch.randn(5, 4), torch.randn(5, 4)
    for ours, theirs in zip(program(x, y, training=True), model([x, y], training=True), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [False, True])
def test_the_compiler_takes_a_program_in_one_piece(training: bool) -> None:
    """torch.compile without code generation: whether the tracer understands everything that a program does."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.BatchNormalization()(layers.Conv2D(CHANNELS, 3, strides=2, padding="same")(inputs))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.2)(x)))
    program = lower(model, Target(torch.channels_last))
    compiled = torch.compile(program, backend="eager", fullgraph=True)
    before = [variable.value.detach().clone() for variable in model.variables]
    results = []
    for run in (program, compiled):
        with torch.no_grad():
            for variable, value in zip(model.variables, before, strict=True):
                variable.value.copy_(value)
        torch.manual_seed(0)
        results.append((run(images("channels_last"), training=training), [v.numpy().copy() for v in model.variables]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_lora_and_quantised_kernels_are_left_to_keras() -> None:
    inputs = keras.Input((8,))
    layer = layers.Dense(4)
    model = keras.Model(inputs, layer(inputs))
    layer.enable_lora(2)
    assert lower(model).fallback_layers == (layer.name,)


def test_a_lowering_is_found_by_the_class_that_it_was_registered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    for name, table in (("LOWERINGS", LOWERINGS), ("CONVOLUTIONS", CONVOLUTIONS), ("REARRANGING", REARRANGING)):
        monkeypatch.setattr(lowered, name, table.copy())
    monkeypatch.setattr("kcv.native.lowering.LOWERINGS", lowered.LOWERINGS)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Doubled()(inputs))
    assert [step.native for step in lower(model).steps] == [False]

    @lowers(Doubled, rearranges=True)
    def lower_doubled(layer: Any, inputs: Any, target: Target) -> Lowered:
        return Lowered(lambda training, x: x * 2)

    assert [step.native for step in lower(model).steps] == [True]
    assert lowered.REARRANGING[-1] is Doubled and Doubled not in lowered.CONVOLUTIONS
    with pytest.raises(ValueError, match="Doubled has two lowerings"):
        lowers(Doubled)(lower_doubled)
