"""MobileNetV3 small and large (Howard et al., 2019, arXiv:1905.02244), in the variants of Keras and torchvision.

The layers are named as in keras.applications. Its builder is not used, because its hard sigmoid is made of operations
that are no layers. The convolution after the pooling ("conv_2") belongs to the backbone: its outputs are the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kcv.models.applications import (
    KERAS,
    MIN_SIZE,
    TORCHVISION,
    Application,
    Variant,
    keras_application,
    padded_as_in_torch,
    same,
    unconverted,
)
from kcv.models.head import LOGITS
from kcv.models.inputs import IMAGENET, Normalisation
from kcv.models.network import ImageNetFile, KerasFile, Network, TorchFile, TorchLayer, torchvision_network
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_CHANNELS = "channels_first"
_STEM = 16
_EPSILON = 1e-3
_PIXELS = Normalisation((0.5,) * 3, (0.25,) * 3)
"""Keras' weights were trained on pixels from -1 to 1."""


@dataclass(frozen=True)
class Block:
    """An inverted residual block.

    Attributes:
        kernel: side of the depthwise convolution.
        expanded: channels of the depthwise convolution.
        width: channels of the output.
        gated: whether there is squeeze-and-excitation.
        activation: name of the activation.
        stride: 2 if the block halves the image.
    """

    kernel: int
    expanded: int
    width: int
    gated: bool
    activation: str
    stride: int = 1


def mobilenet_v3(blocks: Sequence[Block], features: int) -> Callable[..., keras.Model]:
    """Returns a builder of a MobileNetV3 of these blocks, padded as in Keras.

    Args:
        blocks: the blocks after the stem.
        features: channels of the last convolution.
    """

    def make(*, input_shape: tuple[int, int, int], **unused: Any) -> keras.Model:
        import keras
        from keras import layers

        inputs = keras.Input(input_shape)
        conv = layers.Conv2D(_STEM, 3, strides=2, padding="same", use_bias=False, data_format=_CHANNELS, name="conv")
        x = _normalised(conv(inputs), "conv_bn")
        x = layers.Activation("hard_silu", name="conv_activation")(x)
        for number, block in enumerate(blocks):
            x = _inverted(x, block, _prefix(number), expands=number > 0)
        x = _normalised(_pointwise(x, 6 * x.shape[1], "conv_1"), "conv_1_bn")
        x = layers.Activation("hard_silu", name="conv_1_activation")(x)
        x = layers.GlobalAveragePooling2D(keepdims=True, data_format=_CHANNELS, name="conv_2_pool")(x)
        x = _pointwise(x, features, "conv_2", bias=True)
        return keras.Model(inputs, layers.Activation("hard_silu", name="conv_2_activation")(x))

    return make


def _prefix(number: int) -> str:
    return f"expanded_conv_{number}" if number else "expanded_conv"


def _inverted(x: keras.KerasTensor, block: Block, name: str, *, expands: bool) -> keras.KerasTensor:
    from keras import layers

    shortcut = x
    if expands:
        x = _normalised(_pointwise(x, block.expanded, f"{name}_expand"), f"{name}_expand_bn")
        x = layers.Activation(block.activation, name=f"{name}_expand_activation")(x)
    x = layers.DepthwiseConv2D(
        block.kernel,
        strides=block.stride,
        padding="same",
        use_bias=False,
        data_format=_CHANNELS,
        name=f"{name}_depthwise",
    )(x)
    x = layers.Activation(block.activation, name=f"{name}_activation")(_normalised(x, f"{name}_depthwise_bn"))
    if block.gated:
        x = _gated(x, f"{name}_squeeze_excite")
    x = _normalised(_pointwise(x, block.width, f"{name}_project"), f"{name}_project_bn")
    if block.stride == 1 and shortcut.shape[1] == block.width:
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _gated(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    from keras import layers

    gate = layers.GlobalAveragePooling2D(keepdims=True, data_format=_CHANNELS, name=f"{name}_avg_pool")(x)
    gate = _pointwise(gate, _rounded(x.shape[1] / 4), f"{name}_conv", bias=True)
    gate = layers.Activation("relu", name=f"{name}_relu")(gate)
    gate = _pointwise(gate, x.shape[1], f"{name}_conv_1", bias=True)
    gate = layers.Activation("hard_sigmoid", name=f"{name}_sigmoid")(gate)
    return layers.Multiply(name=f"{name}_mul")([x, gate])


def _rounded(width: float) -> int:
    """Returns the nearest multiple of 8 that is no more than a tenth below."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


def _pointwise(x: keras.KerasTensor, width: int, name: str, *, bias: bool = False) -> keras.KerasTensor:
    from keras import layers

    return layers.Conv2D(width, 1, use_bias=bias, data_format=_CHANNELS, name=name)(x)


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    from keras import layers

    # Keras has a momentum of 0.999, whose statistics would lag behind in a training of a few hundred steps.
    return layers.BatchNormalization(axis=1, epsilon=_EPSILON, momentum=0.99, name=name)(x)


def _torch_layers(blocks: Sequence[Block]) -> Callable[[], Iterator[TorchLayer]]:
    def layers() -> Iterator[TorchLayer]:
        yield "conv", "features.0.0", "conv"
        yield "conv_bn", "features.0.1", "norm"
        for number, block in enumerate(blocks):
            ours, theirs, part = _prefix(number), f"features.{number + 1}.block", 0
            if number:
                yield f"{ours}_expand", f"{theirs}.0.0", "conv"
                yield f"{ours}_expand_bn", f"{theirs}.0.1", "norm"
                part = 1
            yield f"{ours}_depthwise", f"{theirs}.{part}.0", "depthwise"
            yield f"{ours}_depthwise_bn", f"{theirs}.{part}.1", "norm"
            if block.gated:
                part += 1
                yield f"{ours}_squeeze_excite_conv", f"{theirs}.{part}.fc1", "conv"
                yield f"{ours}_squeeze_excite_conv_1", f"{theirs}.{part}.fc2", "conv"
            yield f"{ours}_project", f"{theirs}.{part + 1}.0", "conv"
            yield f"{ours}_project_bn", f"{theirs}.{part + 1}.1", "norm"
        yield "conv_1", f"features.{len(blocks) + 1}.0", "conv"
        yield "conv_1_bn", f"features.{len(blocks) + 1}.1", "norm"
        yield "conv_2", "classifier.0", "pointwise"
        yield LOGITS, "classifier.3", "dense"

    return layers


def _register(name: str, source: str, blocks: Sequence[Block], features: int, **facts: Any) -> None:
    build = Application(
        name,
        mobilenet_v3(blocks, features),
        {TORCHVISION: Variant(padded_as_in_torch, IMAGENET), KERAS: Variant(same, _PIXELS)},
    )
    register(
        Network(
            name=name,
            build=build,
            features=features,
            min_image_size=MIN_SIZE,
            depthwise=True,
            blocks=r"expanded_conv(_\d+)?(?=_)",
            variants=tuple(build.variants),
            keras_file=KerasFile(keras_application(source), KERAS, True, unconverted, classifier_rank=4),
            torch_file=TorchFile(f"torchvision's {name}", TORCHVISION, _torch_layers(blocks)),
            torch=torchvision_network(name, dropout=0.2),
            **facts,
        )
    )


_RELU, _SWISH = "relu", "hard_silu"
_SMALL = (
    Block(3, 16, 16, True, _RELU, 2),
    Block(3, 72, 24, False, _RELU, 2),
    Block(3, 88, 24, False, _RELU),
    Block(5, 96, 40, True, _SWISH, 2),
    Block(5, 240, 40, True, _SWISH),
    Block(5, 240, 40, True, _SWISH),
    Block(5, 120, 48, True, _SWISH),
    Block(5, 144, 48, True, _SWISH),
    Block(5, 288, 96, True, _SWISH, 2),
    Block(5, 576, 96, True, _SWISH),
    Block(5, 576, 96, True, _SWISH),
)
_LARGE = (
    Block(3, 16, 16, False, _RELU),
    Block(3, 64, 24, False, _RELU, 2),
    Block(3, 72, 24, False, _RELU),
    Block(5, 72, 40, True, _RELU, 2),
    Block(5, 120, 40, True, _RELU),
    Block(5, 120, 40, True, _RELU),
    Block(3, 240, 80, False, _SWISH, 2),
    Block(3, 200, 80, False, _SWISH),
    Block(3, 184, 80, False, _SWISH),
    Block(3, 184, 80, False, _SWISH),
    Block(3, 480, 112, True, _SWISH),
    Block(3, 672, 112, True, _SWISH),
    Block(5, 672, 160, True, _SWISH, 2),
    Block(5, 960, 160, True, _SWISH),
    Block(5, 960, 160, True, _SWISH),
)
_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"

# The files with a classifier: the others lack "conv_2". Keras publishes only MD5 checksums (WEIGHTS_HASHES).
_register(
    "mobilenet_v3_small",
    "MobileNetV3Small",
    _SMALL,
    features=1024,
    parameters=1_529_968,
    multiply_adds=55_486_400,
    imagenet=ImageNetFile(
        "weights_mobilenet_v3_small_224_1.0_float.h5", "md5:8768d4c2e7dee89b9d02b2d03d65d862", image_size=224, url=_URL
    ),
    best_for="own images, on small devices",
)
_register(
    "mobilenet_v3_large",
    "MobileNetV3Large",
    _LARGE,
    features=1280,
    parameters=4_226_432,
    multiply_adds=215_309_760,
    imagenet=ImageNetFile(
        "weights_mobilenet_v3_large_224_1.0_float.h5", "md5:59e551e166be033d707958cf9e29a6a7", image_size=224, url=_URL
    ),
    best_for="own images, on larger devices",
)
