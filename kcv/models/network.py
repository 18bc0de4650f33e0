"""What an entry of the registry says about a network, without building it or importing anything heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
"""Name in Keras, name in torch, and what it is: conv, depthwise, norm or dense."""

BLOCKS = r"(conv\d+_block\d+|block\d+[a-z]?)(?=_)"
"""What the names of the layers of one block share in the networks of keras.applications, and in kcv's own."""


@dataclass(frozen=True)
class BuildOptions:
    """What a network is built for.

    Attributes:
        image_size: side of the images, pixels.
        num_classes: width of the logits.
        pixels: training images that the first layers may be fitted to, uint8 [n, image_size, image_size, 3].
        width: channels over the network's own; 1 where it has one width only.
        dropout: fraction of the features dropped before the logits.
        variant: one of the network's variants; None where it has none.
        normalisation: of the pixels; None: the variant's own, or that of `pixels`.
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
    """A file of ImageNet weights that its publisher offers; `kcv.models.imagenet` finds and fetches it.

    Attributes:
        name: of the file.
        checksum: as for `kcv.common.download.download`.
        image_size: the side that the weights were trained at, pixels.
        url: of the folder that it is in; None where it comes in a Python package.
        package: the package that it comes in.
        extra: the extra of kcv that installs the package.
    """

    name: str
    checksum: str
    image_size: int
    url: str | None = None
    package: str | None = None
    extra: str | None = None


@dataclass(frozen=True)
class TorchFile:
    """How PyTorch's state dicts of a network are read.

    Attributes:
        origin: whose network it is, for messages.
        variant: that its weights fit.
        layers: returns all layers that have weights, with their names in the state dict.
    """

    origin: str
    variant: str
    layers: Callable[[], Iterable[TorchLayer]]


@dataclass(frozen=True)
class KerasFile:
    """How files of a network of keras.applications are read.

    Attributes:
        make: builds the network; arguments as of keras.applications.
        variant: that its weights fit.
        rescales: whether the network rescales its pixels itself; where it does not, no model around it may.
        convert: takes the weights by layer and the layers of the network that was read; changes the former to kcv's
            conventions, and returns the normalisation of the pixels where the file has its own.
    """

    make: Callable[..., keras.Model]
    variant: str
    rescales: bool
    convert: Callable[[dict[str, Arrays], Sequence[keras.layers.Layer]], Normalisation | None]


@dataclass(frozen=True)
class TorchNetwork:
    """The same network in PyTorch, which benchmarks run beside it.

    Attributes:
        build: takes the Keras model and the number of classes; returns what maps normalised images to logits.
        dropout: before its logits.
    """

    build: Callable[[keras.Model, int], nn.Module]
    dropout: float = 0.0


@dataclass(frozen=True)
class Network:
    """One network, as `register` takes it.

    Attributes:
        name: as in `model.name`; also the name of the Keras model that is built.
        build: returns an uncompiled functional model of standard Keras layers that ends in `kcv.models.head.classify`.
        parameters: of all layers but the logits, at width 1.
        features: width of what the logits are computed from.
        min_image_size: the smallest side it takes, pixels.
        best_for: in a few words.
        default: whether it is the network of a configuration that names none.
        scalable: whether `model.width` changes its channels.
        dropout: before the logits, where a configuration names none.
        depthwise: whether it is made of depthwise convolutions.
        blocks: a pattern at the start of a layer's name: what the layers of one block share.
        variants: of the graph, by the weights that fit; the first one is built for random weights.
        imagenet: the file of its ImageNet weights, if there are any.
        keras_file: how files of keras.applications are read, if it is there.
        torch_file: how state dicts are read, if it is known in PyTorch.
        torch: the same network in PyTorch, if it is benchmarked.
    """

    name: str
    build: Callable[[BuildOptions], keras.Model]
    parameters: int
    features: int
    min_image_size: int
    best_for: str
    default: bool = False
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
        """The side that its ImageNet weights were trained at, pixels; None without such weights."""
        return self.imagenet.image_size if self.imagenet else None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How the names of its weight files may end."""
        applications = (".h5",) if self.keras_file else ()
        state_dicts = (".pth", ".pt", ".safetensors") if self.torch_file else ()
        return (".keras", *applications, *state_dicts)

    @property
    def weights(self) -> Path | None:
        """The file of its ImageNet weights, if it is on this machine."""
        from kcv.models import imagenet

        return imagenet.find(self.imagenet) if self.imagenet else None

    @property
    def weights_here(self) -> str:
        """Whether there are ImageNet weights, and where, in words."""
        if self.imagenet is None:
            return "none"
        if self.weights is not None:
            return "here"
        return "with a download" if self.imagenet.url else f"pip install 'kcv[{self.imagenet.extra}]'"

    def row(self) -> dict[str, Any]:
        """Returns the entry as plain values, for JSON."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "features": self.features,
            "min_image_size": self.min_image_size,
            "image_size": self.image_size,
            "imagenet_weights": str(self.weights) if self.weights else None,
            "imagenet_weights_from": self.weights_here,
            "best_for": self.best_for,
        }
