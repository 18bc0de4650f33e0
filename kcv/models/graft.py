"""Rebuilding a network of keras.applications on an input of our own, layer by layer, with changes on the way.

keras.applications brings its own input and preprocessing, and one variant of each network. Its layers are made anew
from their configurations and called in the same order, so that the result is one flat graph whose layers keep their
names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
from keras import layers

Change: TypeAlias = Callable[[keras.layers.Layer], Sequence[keras.layers.Layer]]
"""Returns the layers to call, one after the other, in place of one; none passes its (first) input on."""


def same(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a fresh layer like this one."""
    return [changed(layer)]


def changed(layer: keras.layers.Layer, **config: Any) -> keras.layers.Layer:
    """Returns a fresh layer like this one but for some entries of its configuration."""
    return type(layer).from_config({**layer.get_config(), **config})


def graft(network: keras.Model, x: keras.KerasTensor, change: Change = same) -> keras.KerasTensor:
    """Calls a network's layers, made anew, on a tensor.

    Args:
        network: a functional model of one input, each of whose layers is called once.
        x: what takes the place of its input.
        change: what becomes of each layer.

    Returns:
        What stands for the network's output.
    """
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
