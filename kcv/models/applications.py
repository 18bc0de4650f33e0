"""Networks of keras.applications, rebuilt layer by layer with kcv's input and head and some changes.

keras.applications has its own input and preprocessing, and one variant of each network. Its layers are created again
from their configurations and called in the same order, so that the result is one flat graph whose layers keep their
names. The normalisation that the weights expect (a mean of 0-255, ImageNet's statistics) is a layer of the model.
Weights from torchvision need a slightly different graph; each network has both as variants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from kcv.models.head import classify
from kcv.models.inputs import Normalisation, network_input
from kcv.models.network import Arrays, BuildOptions

if TYPE_CHECKING:
    import keras

KERAS, TORCHVISION = "keras", "torchvision"
"""Variants, named after the publisher of the weights that fit."""
MIN_SIZE = 32
"""The smallest image side, in pixels: networks for ImageNet halve an image five times."""
TORCH_EPSILON = 1e-5
"""The epsilon of torch's batch normalisation."""

Change: TypeAlias = "Callable[[keras.layers.Layer], Sequence[keras.layers.Layer]]"
"""Returns the layers to call in sequence in place of one layer; an empty sequence passes its (first) input on."""


def keras_application(name: str) -> Callable[..., keras.Model]:
    """Returns the builder of this name in keras.applications; it imports Keras only when called."""

    def make(**options: Any) -> keras.Model:
        import keras

        return getattr(keras.applications, name)(**options)

    return make


def same(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a new layer with the configuration of this one."""
    return [changed(layer)]


def changed(layer: keras.layers.Layer, **config: Any) -> keras.layers.Layer:
    """Returns a new layer with the configuration of this one, except for the given entries."""
    return type(layer).from_config({**layer.get_config(), **config})


def padded_as_in_torch(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Pads a strided convolution equally on both sides, as torch does; Keras' "same" depends on the image's size."""
    from keras import layers

    strided = isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D) and max(layer.strides) > 1
    if not strided or max(layer.kernel_size) == 1:
        return same(layer)
    sides = max(layer.kernel_size) // 2
    pad = layers.ZeroPadding2D(sides, data_format=layer.data_format, name=f"{layer.name}_pad")
    return [pad, changed(layer, padding="valid")]


def unconverted(weights: dict[str, Arrays], layers: Sequence[keras.layers.Layer]) -> None:
    """Leaves the weights of a file as they are; serves as `KerasFile.convert`."""


@dataclass(frozen=True)
class Variant:
    """One of the graphs of a network.

    Attributes:
        change: replaces each layer of Keras' graph.
        normalisation: the normalisation of the pixels that the weights were trained with.
    """

    change: Change
    normalisation: Normalisation


@dataclass(frozen=True)
class Application:
    """Builds a network of keras.applications; serves as `Network.build`.

    Attributes:
        name: the name of the model that is built.
        make: builds Keras' own model; see `keras_application`.
        variants: the variants by name; the first one is used with random weights.
    """

    name: str
    make: Callable[..., keras.Model]
    variants: Mapping[str, Variant]

    def __call__(self, options: BuildOptions) -> keras.Model:
        """Builds the network with random weights; see `kcv.models.registry.build` for the contract."""
        import keras

        variant = self.variants[options.variant or next(iter(self.variants))]
        inputs, x = network_input(options.image_size, options.normalisation or variant.normalisation)
        with _channels_first():
            network = self.make(
                include_top=False, weights=None, input_shape=(3, options.image_size, options.image_size)
            )
        x = graft(network, x, variant.change)
        return keras.Model(inputs, classify(x, options.num_classes, options.dropout), name=self.name)


@contextmanager
def _channels_first() -> Iterator[None]:
    """Makes Keras build with channels first, the faster layout on torch."""
    import keras

    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def graft(network: keras.Model, x: keras.KerasTensor, change: Change = same) -> keras.KerasTensor:
    """Calls new copies of a network's layers on a tensor.

    Args:
        network: a functional model with one input, in which each layer is called once.
        x: the tensor that replaces its input.
        change: replaces each layer.

    Returns:
        The tensor that corresponds to the network's output.
    """
    from keras import layers

    made = {id(network.input): x}
    for layer in network.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        several = isinstance(layer.input, list | tuple)
        given: Any = [made[id(tensor)] for tensor in layer.input] if several else made[id(layer.input)]
        replacements = change(layer)
        value = given[0] if several and not replacements else given
        for replacement in replacements:
            value = replacement(value)
        made[id(layer.output)] = value
    return made[id(network.output)]
