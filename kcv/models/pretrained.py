"""Pretrained weights by layer, in the layout of kcv's graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcv.common.text import shortened
from kcv.errors import WeightsError
from kcv.models.head import HEAD, LOGITS
from kcv.models.inputs import Normalisation
from kcv.models.network import Arrays
from kcv.models.registry import block_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Pretrained:
    """Weights of one architecture.

    Attributes:
        source: their origin, for messages.
        variant: the variant of the graph that they fit, if the architecture has several.
        layers: by layer name, the arrays for the layer's `set_weights`.
        normalisation: normalisation of the pixels, if it differs from that of the variant.
        class_names: classes of the logits, if known.
    """

    source: str
    variant: str | None
    layers: Mapping[str, Arrays]
    normalisation: Normalisation | None = None
    class_names: tuple[str, ...] | None = None

    def assign(self, model: keras.Model, *, head: bool) -> None:
        """Assigns the weights to a model.

        Args:
            model: a model of this architecture and variant.
            head: whether to assign the weights of the logits too; otherwise they stay unchanged.

        Raises:
            WeightsError: a layer is missing or has another shape; the model is then unchanged.
        """
        wanted = [
            layer
            for layer in model.layers
            if layer.weights and (layer.name not in HEAD or (head and layer.name == LOGITS))
        ]
        names = {layer.name for layer in wanted}
        for name in self.layers:
            if name not in names and block_of(model.name, name):
                # A deeper network contains all layers of this one, and others between them.
                raise WeightsError(
                    f"{self.source}: has a layer {shortened(name)} as well: it does not hold a {model.name}."
                )
        for layer in wanted:
            if layer.name not in self.layers:
                raise WeightsError(f"{self.source}: has no layer {layer.name}: it does not hold a {model.name}.")
            theirs = [array.shape for array in self.layers[layer.name]]
            ours = [tuple(weight.shape) for weight in layer.weights]
            if theirs != ours:
                raise WeightsError(
                    f"{self.source}: its layer {layer.name} has the shapes {_listed(theirs)}, "
                    f"but that of {model.name} has {_listed(ours)}."
                )
        for layer in wanted:
            layer.set_weights(list(self.layers[layer.name]))


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
