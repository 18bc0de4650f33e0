"""A model as backbone and head: what is frozen, and how deep a layer lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras

from kcv.models.head import FEATURES, HEAD
from kcv.models.registry import block_of


@dataclass(frozen=True)
class Backbone:
    """All of a model but its head.

    Args:
        model: one of `kcv.models.registry`.

    Attributes:
        layers: of the backbone, in the order of computation.
    """

    model: keras.Model
    layers: tuple[keras.layers.Layer, ...]
    _learning: frozenset[str]

    @classmethod
    def of(cls, model: keras.Model) -> Backbone:
        """Takes a model apart; what its builder has frozen for good (fixed filters) stays so."""
        layers = tuple(layer for layer in model.layers if layer.name not in HEAD)
        return cls(model, layers, frozenset(layer.name for layer in layers if layer.trainable))

    def freeze(self) -> None:
        """Keeps all weights and statistics as they are; BatchNormalization runs in inference mode."""
        for layer in self.layers:
            layer.trainable = False

    def unfreeze(self, *, batch_norm: bool) -> None:
        """Lets the backbone learn.

        Args:
            batch_norm: whether BatchNormalization learns too. It is then at the mercy of small batches: its statistics
                are those of the new images, not those that the other weights were trained with.
        """
        for layer in self.layers:
            kept = isinstance(layer, keras.layers.BatchNormalization) and not batch_norm
            learns = layer.name in self._learning and not kept
            if layer.trainable != learns:  # a model that is a layer would pass it on to all of its layers
                layer.trainable = learns

    def features(self) -> keras.Model:
        """Returns the model of images to features, float [batch, features]; it shares the layers."""
        return keras.Model(self.model.input, self.model.get_layer(FEATURES).output, name=f"{self.model.name}_backbone")

    def head(self) -> keras.Model:
        """Returns the model of features, float32 [batch, features], to logits; it shares the layers."""
        features = self.model.get_layer(FEATURES).output
        inputs = keras.Input(features.shape[1:], dtype="float32", name="features")
        x = inputs
        for layer in self.model.layers:
            if layer.name in HEAD and layer.name != FEATURES:
                x = layer(x)
        return keras.Model(inputs, x, name=f"{self.model.name}_head")

    def depths(self) -> Mapping[str, int]:
        """Returns, by layer, how many blocks lie between it and the head: 0 for the last block, most for the stem."""
        order: dict[str, None] = {}
        blocks = {}
        for layer in self.layers:
            # What stands before the first block is the stem; what stands after the last belongs to it.
            blocks[layer.name] = block_of(self.model.name, layer.name) or next(reversed(order), "stem")
            order.setdefault(blocks[layer.name])
        names = list(order)
        return {layer: len(names) - 1 - names.index(block) for layer, block in blocks.items()}
