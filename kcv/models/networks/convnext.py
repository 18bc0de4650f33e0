"""ConvNeXt-Tiny and -Small (Liu et al., 2022, arXiv:2201.03545).

Their graph is the same in keras.applications and torchvision. It is made of standard layers alone, so that plain Keras
opens the files: the learned scale of a block ("LayerScale") is a depthwise 1x1 convolution, and stochastic depth is
dropout of whole images. Inside, the channels are last: that is where LayerNormalization and Dense take them. The last
normalisation follows the pooling and belongs to the backbone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kcv.models.applications import MIN_SIZE, Application, Variant, keras_application, same
from kcv.models.head import LOGITS
from kcv.models.inputs import IMAGENET
from kcv.models.network import Arrays, ImageNetFile, KerasFile, Network, TorchFile, TorchLayer, torchvision_network
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_ONLY = "convnext"
"""The name of the only variant: the weights of all publishers fit it."""
_EPSILON = 1e-6
_SCALE = 1e-6
"""The first value of the scales: blocks begin as the identity."""
_WIDTHS = (96, 192, 384, 768)
_CHANNELS = "channels_last"
_PREFIX = re.compile(r"^.*?(?=(?:stem|stage|downsampling|head)_)")
"""In keras.applications, the name of the model stands before the names of its layers."""


def convnext(stages: Sequence[int], dropped: float, widths: Sequence[int] = _WIDTHS) -> Callable[..., keras.Model]:
    """Returns a builder of a ConvNeXt.

    Args:
        stages: blocks per stage.
        dropped: stochastic depth: how often the last block is left out; earlier ones in proportion to their place.
        widths: channels per stage.
    """

    def make(*, input_shape: tuple[int, int, int], **unused: Any) -> keras.Model:
        import keras
        from keras import layers

        inputs = keras.Input(input_shape)
        x = layers.Permute((2, 3, 1), name="channels_last")(inputs)
        x = _normalised(_convolved(x, widths[0], 4, "stem_conv", strides=4), "stem_layernorm")
        place, last = 0, sum(stages) - 1
        for stage, (count, width) in enumerate(zip(stages, widths, strict=True)):
            if stage:
                x = _normalised(x, f"downsampling_layernorm_{stage - 1}")
                x = _convolved(x, width, 2, f"downsampling_conv_{stage - 1}", strides=2)
            for block in range(count):
                x = _block(x, f"stage_{stage}_block_{block}", dropped * place / last)
                place += 1
        x = layers.GlobalAveragePooling2D(keepdims=True, data_format=_CHANNELS, name="head_gap")(x)
        x = _normalised(x, "head_layernorm")
        return keras.Model(inputs, layers.Permute((3, 1, 2), name="head_channels_first")(x))

    return make


def _block(x: keras.KerasTensor, name: str, dropped: float) -> keras.KerasTensor:
    from keras import initializers, layers

    width = x.shape[-1]
    new = _convolved(x, width, 7, f"{name}_depthwise_conv", padding="same", groups=width)
    new = _normalised(new, f"{name}_layernorm")
    new = layers.Dense(4 * width, kernel_initializer=_start(), name=f"{name}_pointwise_conv_1")(new)
    new = layers.Activation("gelu", name=f"{name}_gelu")(new)
    new = layers.Dense(width, kernel_initializer=_start(), name=f"{name}_pointwise_conv_2")(new)
    new = layers.DepthwiseConv2D(
        1,
        use_bias=False,
        depthwise_initializer=initializers.Constant(_SCALE),
        data_format=_CHANNELS,
        name=f"{name}_layer_scale",
    )(new)
    if dropped:
        new = layers.Dropout(dropped, noise_shape=(None, 1, 1, 1), name=f"{name}_stochastic_depth")(new)
    return layers.Add(name=f"{name}_add")([new, x])


def _convolved(x: keras.KerasTensor, width: int, kernel: int, name: str, **options: Any) -> keras.KerasTensor:
    from keras import layers

    convolution = layers.Conv2D(width, kernel, kernel_initializer=_start(), data_format=_CHANNELS, name=name, **options)
    return convolution(x)


def _start() -> keras.initializers.Initializer:
    from keras import initializers

    return initializers.TruncatedNormal(stddev=0.02)


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    from keras import layers

    return layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)


def _convert(weights: dict[str, Arrays], layers: Sequence[keras.layers.Layer]) -> None:
    """Removes the model's name from those of its layers, and turns scales into kernels of 1x1 convolutions."""
    for name in list(weights):
        arrays = weights.pop(name)
        # Without a classifier, Keras leaves the last normalisation without a name.
        short = "head_layernorm" if name.startswith("layer_normalization") else _PREFIX.sub("", name)
        if short.endswith("_layer_scale"):
            arrays = [arrays[0].reshape(1, 1, -1, 1)]
        weights[short] = arrays


def _torch_layers(stages: Sequence[int]) -> Callable[[], Iterator[TorchLayer]]:
    def layers() -> Iterator[TorchLayer]:
        yield "stem_conv", "features.0.0", "conv"
        yield "stem_layernorm", "features.0.1", "layer_norm"
        for stage, count in enumerate(stages):
            if stage:
                yield f"downsampling_layernorm_{stage - 1}", f"features.{2 * stage}.0", "layer_norm"
                yield f"downsampling_conv_{stage - 1}", f"features.{2 * stage}.1", "conv"
            for block in range(count):
                ours, theirs = f"stage_{stage}_block_{block}", f"features.{2 * stage + 1}.{block}"
                yield f"{ours}_depthwise_conv", f"{theirs}.block.0", "conv"
                yield f"{ours}_layernorm", f"{theirs}.block.2", "layer_norm"
                yield f"{ours}_pointwise_conv_1", f"{theirs}.block.3", "dense"
                yield f"{ours}_pointwise_conv_2", f"{theirs}.block.5", "dense"
                yield f"{ours}_layer_scale", f"{theirs}.layer_scale", "scale"
        yield "head_layernorm", "classifier.0", "layer_norm"
        yield LOGITS, "classifier.2", "dense"

    return layers


def _register(name: str, source: str, stages: Sequence[int], dropped: float, checksum: str, **facts: Any) -> None:
    """Registers a network; `checksum` is that of Keras' file with a classifier, which has the last normalisation."""
    build = Application(name, convnext(stages, dropped), {_ONLY: Variant(same, IMAGENET)})
    register(
        Network(
            name=name,
            build=build,
            features=_WIDTHS[-1],
            min_image_size=MIN_SIZE,
            depthwise=True,
            blocks=r"stage_\d+_block_\d+(?=_)",
            variants=tuple(build.variants),
            imagenet=ImageNetFile(
                f"{name}.h5",
                checksum,
                image_size=224,
                url="https://storage.googleapis.com/tensorflow/keras-applications/convnext/",
            ),
            keras_file=KerasFile(keras_application(source), _ONLY, rescales=True, convert=_convert),
            torch_file=TorchFile(f"torchvision's {name}", _ONLY, _torch_layers(stages)),
            torch=torchvision_network(name),
            **facts,
        )
    )


_register(
    "convnext_tiny",
    "ConvNeXtTiny",
    (3, 3, 9, 3),
    dropped=0.1,
    parameters=27_820_128,
    multiply_adds=4_456_908_288,
    checksum="sha256:8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
    best_for="own images, accurate, on a GPU",
)
_register(
    "convnext_small",
    "ConvNeXtSmall",
    (3, 3, 27, 3),
    dropped=0.4,
    parameters=49_454_688,
    multiply_adds=8_686_444_032,
    checksum="sha256:ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb9263fd7483c",
    best_for="own images, most accurate, GPU",
)
