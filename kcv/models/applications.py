"""Networks of keras.applications, rebuilt layer by layer on kcv's input and head, with changes on the way.

keras.applications brings its own input and preprocessing, and one variant of each network. Its layers are made anew
from their configurations and called in the same order, so that the result is one flat graph whose layers keep their
names. Whatever a set of weights wants of its pixels (a mean of 0-255, ImageNet's statistics) is a layer of the model.
Weights from torchvision want a slightly different graph; both are variants here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from kcv.models.head import classify
from kcv.models.inputs import Normalisation, network_input
from kcv.models.network import BuildOptions

if TYPE_CHECKING:
    import keras

KERAS, TORCHVISION = "keras", "torchvision"
"""Variants: who trained the weights that fit."""
MIN_SIZE = 32
"""Pixels: networks for ImageNet halve an image five times."""
TORCH_EPSILON = 1e-5
"""Of torch's batch normalisation."""

Change: TypeAlias = "Callable[[keras.layers.Layer], Sequence[keras.layers.Layer]]"
"""Returns the layers to call, one after the other, in place of one; none passes its (first) input on."""


def keras_application(name: str) -> Callable[..., keras.Model]:
    """Returns a builder of keras.applications by its name, which imports Keras when it is called."""

    def make(**options: Any) -> keras.Model:
        import keras

        return getattr(keras.applications, name)(**options)

    return make


def same(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a fresh layer like this one."""
    return [changed(layer)]


def changed(layer: keras.layers.Layer, **config: Any) -> keras.layers.Layer:
    """Returns a fresh layer like this one but for some entries of its configuration."""
    return type(layer).from_config({**layer.get_config(), **config})


@dataclass(frozen=True)
class Variant:
    """One of several graphs of a network.

    Attributes:
        change: what becomes of each layer of Keras' graph.
        normalisation: of the pixels, that the weights were trained with.
    """

    change: Change
    normalisation: Normalisation


@dataclass(frozen=True)
class Application:
    """Builds a network of keras.applications; a `Network.build`.

    Attributes:
        name: of the model that is built.
        make: builds Keras' own; see `keras_application`.
        variants: by name, the one for random weights first.
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
    """Makes Keras build with channels first, which is the faster layout on torch."""
    import keras

    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def graft(network: keras.Model, x: keras.KerasTensor, change: Change = same) -> keras.KerasTensor:
    """Calls a network's layers, made anew, on a tensor.

    Args:
        network: a functional model of one input, each of whose layers is called once.
        x: what takes the place of its input.
        change: what becomes of each layer.

    Returns:
        What stands for the network's output.
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
