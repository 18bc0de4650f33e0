"""ResNet-18, -34, -50 and -101 (He et al., 2015, arXiv:1512.03385).

The two deep ones are in the variants of keras.applications and torchvision. keras.applications has no ResNet-18 and
-34: their graph is torchvision's, and their layers are named as Keras names those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kcv.models.applications import (
    KERAS,
    MIN_SIZE,
    TORCH_EPSILON,
    TORCHVISION,
    Application,
    Variant,
    changed,
    keras_application,
    same,
)
from kcv.models.head import LOGITS
from kcv.models.inputs import IMAGENET, Normalisation
from kcv.models.network import Arrays, ImageNetFile, KerasFile, Network, TorchFile, TorchLayer, torchvision_network
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_CAFFE = Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255**2,) * 3)
"""The normalisation of Keras' weights: only a mean is subtracted from 0-255. Their channels are BGR; see `_convert`."""
_BLOCKS = r"conv\d+_block\d+(?=_)"
_CHANNELS = "channels_first"


def basic_resnet(stages: Sequence[int], width: int = 64) -> Callable[..., keras.Model]:
    """Returns a builder of a ResNet of basic blocks: two 3x3 convolutions each, as in ResNet-18 and -34.

    Args:
        stages: blocks per stage.
        width: channels of the stem and the first stage; each further stage has twice as many.
    """

    def make(*, input_shape: tuple[int, int, int], **unused: Any) -> keras.Model:
        import keras
        from keras import layers

        inputs = keras.Input(input_shape)
        x = _convolved(inputs, width, 7, 2, "conv1")
        x = layers.Activation("relu", name="conv1_relu")(x)
        x = layers.ZeroPadding2D(1, data_format=_CHANNELS, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, data_format=_CHANNELS, name="pool1_pool")(x)
        for stage, count in enumerate(stages):
            for block in range(count):
                stride = 2 if stage and not block else 1
                x = _basic_block(x, width * 2**stage, stride, f"conv{stage + 2}_block{block + 1}")
        return keras.Model(inputs, x)

    return make


def _basic_block(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    from keras import layers

    shortcut = x if stride == 1 and x.shape[1] == width else _convolved(x, width, 1, stride, f"{name}_0")
    x = _convolved(x, width, 3, stride, f"{name}_1")
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    x = _convolved(x, width, 3, 1, f"{name}_2")
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _convolved(x: keras.KerasTensor, width: int, kernel: int, stride: int, name: str) -> keras.KerasTensor:
    """Adds a convolution without bias and its normalisation, padded as in torch: equally on both sides."""
    from keras import initializers, layers

    padded = kernel > 1 and stride > 1
    if padded:
        x = layers.ZeroPadding2D(kernel // 2, data_format=_CHANNELS, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        width,
        kernel,
        strides=stride,
        padding="valid" if padded else "same",
        use_bias=False,
        kernel_initializer=initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        data_format=_CHANNELS,
        name=f"{name}_conv",
    )(x)
    return layers.BatchNormalization(axis=1, momentum=0.9, epsilon=TORCH_EPSILON, name=f"{name}_bn")(x)


def _of_torchvision(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Turns Keras' ResNet into torchvision's ("v1.5"): blocks halve in their 3x3 convolution, without biases."""
    from keras import layers

    if isinstance(layer, layers.BatchNormalization):
        return [changed(layer, epsilon=TORCH_EPSILON)]
    if not isinstance(layer, layers.Conv2D):
        return same(layer)
    stage, block, place = [*layer.name.split("_"), "", ""][:3]
    if stage in ("conv3", "conv4", "conv5") and block == "block1" and place in ("1", "2"):
        if place == "1":
            return [changed(layer, strides=1, use_bias=False)]
        # Torch pads both sides equally; Keras' "same" would pad only right and bottom.
        pad = layers.ZeroPadding2D(1, data_format=_CHANNELS, name=f"{stage}_{block}_2_pad")
        return [pad, changed(layer, strides=2, padding="valid", use_bias=False)]
    return [changed(layer, use_bias=False)]


def _convert(weights: dict[str, Arrays], layers: Sequence[keras.layers.Layer]) -> None:
    """Swaps R and B in the first kernel, because the preprocessing of keras.applications swaps them in the images."""
    import numpy as np

    if "conv1_conv" in weights:
        kernel, *rest = weights["conv1_conv"]
        weights["conv1_conv"] = [np.ascontiguousarray(kernel[:, :, ::-1]), *rest]


def _torch_layers(stages: Sequence[int], convolutions: int) -> Callable[[], Iterator[TorchLayer]]:
    """Returns the layers of a ResNet with this number of blocks per stage and of convolutions per block."""

    def layers() -> Iterator[TorchLayer]:
        yield "conv1_conv", "conv1", "conv"
        yield "conv1_bn", "bn1", "norm"
        for stage, blocks in enumerate(stages, start=1):
            for block in range(blocks):
                ours, theirs = f"conv{stage + 1}_block{block + 1}", f"layer{stage}.{block}"
                if block == 0 and (stage > 1 or convolutions == 3):
                    yield f"{ours}_0_conv", f"{theirs}.downsample.0", "conv"
                    yield f"{ours}_0_bn", f"{theirs}.downsample.1", "norm"
                for place in range(1, convolutions + 1):
                    yield f"{ours}_{place}_conv", f"{theirs}.conv{place}", "conv"
                    yield f"{ours}_{place}_bn", f"{theirs}.bn{place}", "norm"
        yield LOGITS, "fc", "dense"

    return layers


def _register_basic(name: str, stages: Sequence[int], **facts: Any) -> None:
    build = Application(name, basic_resnet(stages), {TORCHVISION: Variant(same, IMAGENET)})
    register(
        Network(
            name=name,
            build=build,
            features=512,
            min_image_size=MIN_SIZE,
            blocks=_BLOCKS,
            variants=tuple(build.variants),
            torch_file=TorchFile(f"torchvision's {name}", TORCHVISION, _torch_layers(stages, 2)),
            torch=torchvision_network(name),
            **facts,
        )
    )


def _register_deep(name: str, source: str, stages: Sequence[int], *, usual: bool = False, **facts: Any) -> None:
    make = keras_application(source)
    build = Application(name, make, {TORCHVISION: Variant(_of_torchvision, IMAGENET), KERAS: Variant(same, _CAFFE)})
    register(
        Network(
            name=name,
            build=build,
            features=2048,
            min_image_size=MIN_SIZE,
            blocks=_BLOCKS,
            variants=tuple(build.variants),
            keras_file=KerasFile(make, KERAS, rescales=False, convert=_convert),
            torch_file=TorchFile(f"torchvision's {name}", TORCHVISION, _torch_layers(stages, 3)),
            torch=torchvision_network(name, usual=usual),
            **facts,
        )
    )


_TORCH_URL = "https://download.pytorch.org/models/"
_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"

_register_basic(
    "resnet18",
    (2, 2, 2, 2),
    parameters=11_186_112,
    multiply_adds=1_813_561_344,
    imagenet=ImageNetFile(
        "resnet18-f37072fd.pth",
        "sha256:f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        image_size=224,
        url=_TORCH_URL,
    ),
    best_for="own images, plain and quick",
)
_register_basic(
    "resnet34",
    (3, 4, 6, 3),
    parameters=21_301_696,
    multiply_adds=3_663_249_408,
    imagenet=ImageNetFile(
        "resnet34-b627a593.pth",
        "sha256:b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
        image_size=224,
        url=_TORCH_URL,
    ),
    best_for="own images, a deeper ResNet-18",
)
# Keras publishes only MD5 checksums (keras/src/applications, WEIGHTS_HASHES).
_register_deep(
    "resnet50",
    "ResNet50",
    (3, 4, 6, 3),
    parameters=23_561_152,
    multiply_adds=4_087_136_256,
    imagenet=ImageNetFile(
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:4d473c1dd8becc155b73f8504c6f6626",
        image_size=224,
        url=_KERAS_URL,
    ),
    best_for="own images, on a GPU",
    usual=True,
)
_register_deep(
    "resnet101",
    "ResNet101",
    (3, 4, 23, 3),
    parameters=42_605_504,
    multiply_adds=7_799_357_440,
    imagenet=ImageNetFile(
        "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:88cf7a10940856eca736dc7b7e228a21",
        image_size=224,
        url=_KERAS_URL,
    ),
    best_for="many own images, on a GPU",
)
