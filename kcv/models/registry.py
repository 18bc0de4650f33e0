"""The registry of networks, and how one is built.

Each file in `kcv/models/networks/` registers its networks. It imports neither Keras nor torch, so that configuration,
help and `kcv models` can list the names quickly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from kcv.common.discovery import import_modules
from kcv.errors import ConfigError
from kcv.models import networks as families
from kcv.models.network import BLOCKS, BuildOptions, Network

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray

    from kcv.models.pretrained import Pretrained

_NETWORKS: dict[str, Network] = {}


class ModelOptions(Protocol):
    """The part of a configuration that decides how a model is built; `kcv.config.ModelConfig` implements it."""

    @property
    def name(self) -> str:
        """The name of the network."""

    @property
    def width(self) -> float:
        """Factor on the network's channels."""

    @property
    def dropout(self) -> float | None:
        """Dropout before the logits; None: the network's default."""


def register(network: Network) -> Network:
    """Registers a network under its name, and returns it.

    Example:
        register(Network("lenet5", build=_build, parameters=61_000, features=84, min_image_size=28, best_for="digits"))

    Raises:
        ValueError: another network already has that name.
    """
    if network.name in _NETWORKS:
        raise ValueError(f"there are two networks of the name {network.name}")
    _NETWORKS[network.name] = network
    return network


def networks() -> tuple[Network, ...]:
    """Returns all networks: first the default, then the others by decreasing number of parameters."""
    import_modules(families.__name__)
    return tuple(sorted(_NETWORKS.values(), key=lambda network: (not network.default, -network.parameters)))


def names() -> tuple[str, ...]:
    """Returns the names of all networks, in the order of `networks`."""
    return tuple(network.name for network in networks())


def default() -> str:
    """Returns the name of the default network."""
    return networks()[0].name


def find(name: object) -> Network | None:
    """Returns the network of this name, or None if there is none."""
    import_modules(families.__name__)
    return _NETWORKS.get(name) if isinstance(name, str) else None


def get(name: str) -> Network:
    """Returns the network of this name.

    Raises:
        KeyError: no network has this name.
    """
    import_modules(families.__name__)
    return _NETWORKS[name]


def block_of(model_name: str, layer: str) -> str | None:
    """Returns the block that a layer of a model belongs to, or None.

    A model that is not registered is assumed to name its blocks like the networks of Keras.
    """
    network = find(model_name)
    match = re.match(network.blocks if network else BLOCKS, layer)
    return match[0] if match else None


def variant_of(config: ModelOptions, pretrained: Pretrained | None) -> str | None:
    """Returns the variant of a network to build; None if it has no variants."""
    variants = get(config.name).variants
    return ((pretrained and pretrained.variant) or variants[0]) if variants else None


def build(
    config: ModelOptions,
    image_size: int,
    num_classes: int,
    pixels: NDArray[np.uint8],
    pretrained: Pretrained | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> keras.Model:
    """Builds a model under Keras' current dtype policy and device.

    Args:
        config: the network and its options.
        image_size: side of the square input images, in pixels.
        num_classes: number of logits.
        pixels: training images, uint8 [n, image_size, image_size, 3], that the input layers (normalisation, whitening)
            may be fitted to; a few thousand are enough.
        pretrained: initial weights, as returned by `kcv.models.weights.loading.load`.
        class_names: classes of the logits. If the weights were trained for the same classes, their logits are used too.

    Returns:
        An uncompiled functional model of standard Keras layers, from RGB 0-255, float32 [batch, image_size, image_size,
        3], to logits, float32 [batch, num_classes].

    Raises:
        ConfigError: the images are too small for the network.
        WeightsError: the weights do not fit.
    """
    network = get(config.name)
    if image_size < network.min_image_size:
        raise ConfigError(
            [f"data.image_size: {network.name} takes images of {network.min_image_size} px or more, not {image_size}."]
        )
    options = BuildOptions(
        image_size,
        num_classes,
        pixels,
        width=config.width,
        dropout=network.dropout if config.dropout is None else config.dropout,
        variant=variant_of(config, pretrained),
        normalisation=pretrained.normalisation if pretrained else None,
    )
    model = network.build(options)
    if pretrained:
        same = class_names is not None and pretrained.class_names == tuple(class_names)
        pretrained.assign(model, head=same)
    return model
