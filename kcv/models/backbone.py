"""Splits a model into backbone and head, freezes the backbone, and measures the depth of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras

from kcv.models.head import FEATURES, HEAD
from kcv.models.registry import block_of


@dataclass(frozen=True)
class Backbone:
    """All layers of a model except its head.

    Args:
        model: a model built by `kcv.models.registry`.

    Attributes:
        layers: the layers of the backbone, in order of computation.
    """

    model: keras.Model
    layers: tuple[keras.layers.Layer, ...]
    _learning: frozenset[str]

    @classmethod
    def of(cls, model: keras.Model) -> Backbone:
        """Splits a model; layers that its builder froze (fixed filters) stay frozen."""
        layers = tuple(layer for layer in model.layers if layer.name not in HEAD)
        return cls(model, layers, frozenset(layer.name for layer in layers if layer.trainable))

    def freeze(self) -> None:
        """Freezes all weights and statistics; BatchNormalization runs in inference mode."""
        for layer in self.layers:
            layer.trainable = False

    def unfreeze(self, *, batch_norm: bool) -> None:
        """Makes the backbone trainable.

        Args:
            batch_norm: whether BatchNormalization is trained too. It then depends on the batch size: its statistics are
                those of the new images, not those that the other weights were trained with.
        """
        for layer in self.layers:
            kept = isinstance(layer, keras.layers.BatchNormalization) and not batch_norm
            learns = layer.name in self._learning and not kept
            if layer.trainable != learns:  # setting it on a nested model would set it on all of its layers
                layer.trainable = learns

    def features(self) -> keras.Model:
        """Returns the model from images to features, float [batch, features]; it shares the layers."""
        return keras.Model(self.model.input, self.model.get_layer(FEATURES).output, name=f"{self.model.name}_backbone")

    def head(self) -> keras.Model:
        """Returns the model from features, float32 [batch, features], to logits; it shares the layers."""
        features = self.model.get_layer(FEATURES).output
        inputs = keras.Input(features.shape[1:], dtype="float32", name="features")
        x = inputs
        for layer in self.model.layers:
            if layer.name in HEAD and layer.name != FEATURES:
                x = layer(x)
        return keras.Model(inputs, x, name=f"{self.model.name}_head")

    def depths(self) -> Mapping[str, int]:
        """Returns by layer name the number of blocks between layer and head: 0 in the last block, most in the stem."""
        order: dict[str, None] = {}
        blocks = {}
        for layer in self.layers:
            # Layers before the first block are the stem; layers after a block count as part of it.
            blocks[layer.name] = block_of(self.model.name, layer.name) or next(reversed(order), "stem")
            order.setdefault(blocks[layer.name])
        names = list(order)
        return {layer: len(names) - 1 - names.index(block) for layer, block in blocks.items()}
