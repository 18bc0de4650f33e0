"""The custom CNN: five blocks, designed to learn small images in few epochs.

Block 1 is a patch-whitening convolution with fixed filters. Blocks 2 to 5 have two normalised 3x3 convolutions each,
the second with a shortcut; blocks 2 to 4 halve the image after the first convolution. Three ideas come from Keller
Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498): fitting the first layer to the data,
initialising the convolutions as the identity, and BatchNormalization without scale.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from kcv.models.head import classify
from kcv.models.inputs import Normalisation, network_input
from kcv.models.network import BuildOptions, Network, TorchNetwork
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras
    from torch import Tensor, nn

_NAME = "custom_cnn"

WIDTHS = (64, 256, 256, 256)
"""Output channels of the blocks after the whitening block, at width 1."""

_POOLED = 3
"""The number of those blocks that halve the image: 32 px become 3 x 3, and 16 px, the smallest input, 1 x 1."""

_CHANNELS = "channels_first"
"""The inner layout, independent of Keras' default: the faster one for Keras layers on torch."""


def _build(options: BuildOptions) -> keras.Model:
    """Builds the custom CNN; see `kcv.models.registry.build` for the contract."""
    import keras
    from keras import layers

    from kcv.models.whitening import whitening_filters

    image_size, pixels = options.image_size, options.pixels
    inputs, x = network_input(image_size, options.normalisation or Normalisation.of(pixels))

    # Up to 64 px the stride is 1; in larger images it is 2 or 4, with patches of the same size, like a strided stem.
    stride = 1 if image_size <= 64 else 2 if image_size <= 128 else 4
    kernel = max(2, stride)
    filters = whitening_filters(pixels, kernel)
    whiten = layers.Conv2D(
        filters.shape[-1],
        kernel,
        strides=stride,
        use_bias=False,
        trainable=False,
        data_format=_CHANNELS,
        name="block1_whiten",
    )
    x = layers.Activation("gelu", name="block1_gelu")(whiten(x))
    whiten.set_weights([filters])

    for number, channels in enumerate(WIDTHS, start=2):
        # Multiples of 16 make full use of vector and matrix units.
        filled = max(16, round(channels * options.width / 16) * 16)
        x = _block(x, filled, f"block{number}", pooled=number - 2 < _POOLED)
    return keras.Model(inputs, classify(x, options.num_classes, options.dropout), name=_NAME)


def _block(x: keras.KerasTensor, width: int, name: str, *, pooled: bool) -> keras.KerasTensor:
    from keras import layers

    x = _convolution(x, width, f"{name}_conv1")
    if pooled:
        x = layers.MaxPooling2D(2, data_format=_CHANNELS, name=f"{name}_pool")(x)
    x = _normalise(x, f"{name}_norm1")
    x = shortcut = layers.Activation("gelu", name=f"{name}_gelu1")(x)
    x = _normalise(_convolution(x, width, f"{name}_conv2"), f"{name}_norm2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("gelu", name=f"{name}_gelu2")(x)


def _convolution(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    from keras import layers

    layer = layers.Conv2D(width, 3, padding="same", use_bias=False, data_format=_CHANNELS, name=name)
    outputs = layer(x)
    kernel = layer.get_weights()[0]
    shared = min(kernel.shape[2:])
    # The first filters start as the identity, so that the image reaches every block from the first step.
    kernel[:, :, :shared, :shared] = 0.0
    kernel[1, 1, range(shared), range(shared)] = 1.0
    layer.set_weights([kernel])
    return outputs


def _normalise(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    from keras import layers

    # Momentum 0.9 instead of Keras' 0.99: the statistics must keep up in a training of a few hundred steps. No scale:
    # the next convolution (or the logits) can learn it.
    return layers.BatchNormalization(axis=1, momentum=0.9, scale=False, name=name)(x)


def _in_torch(model: keras.Model, classes: int) -> nn.Module:
    """Returns the custom CNN in plain PyTorch, with the same layers as the Keras model."""
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        """Two normalised 3x3 convolutions, the second with a shortcut."""

        def __init__(self, channels: int, width: int, *, pooled: bool) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
            self.norm1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            for norm in (self.norm1, self.norm2):  # no learned scale, as in the Keras model
                norm.weight.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            x = F.gelu(self.norm1(self.pool(self.conv1(x))))
            return F.gelu(self.norm2(self.conv2(x)) + x)

    whiten = model.get_layer("block1_whiten")
    stem = nn.Conv2d(3, whiten.filters, whiten.kernel_size, whiten.strides, bias=False)
    stem.requires_grad_(False)
    numbers = range(2, 2 + sum(layer.name.endswith("_conv1") for layer in model.layers))
    names = {layer.name for layer in model.layers}
    widths = [whiten.filters, *(model.get_layer(f"block{number}_conv1").filters for number in numbers)]
    blocks = [
        Block(before, width, pooled=f"block{number}_pool" in names)
        for number, (before, width) in zip(numbers, pairwise(widths), strict=True)
    ]
    return nn.Sequential(
        stem, nn.GELU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)
    )


register(
    Network(
        name=_NAME,
        build=_build,
        parameters=3_152_544,
        multiply_adds=128_761_632,
        features=256,
        min_image_size=16,  # in smaller images, pooling leaves nothing
        best_for="small images, from scratch",
        default=True,
        recipe={
            "data.batch_size": 256,
            "augment.crop_padding": 4,
            "augment.flip": "random",
            "augment.cutout": 8,
            "optim.name": "sgd",
            "optim.lr": 0.375,
            "optim.momentum": 0.85,
            "optim.weight_decay": 9.0e-3,
            "optim.bias_lr_scale": 16.0,
            "optim.label_smoothing": 0.2,
            "optim.warmup_fraction": 0.2,
        },
        scalable=True,
        dropout=0.0,
        blocks=r"block\d+(?=_)",
        torch=TorchNetwork(_in_torch, usual=True),
    )
)
