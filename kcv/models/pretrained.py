"""Weights that come from elsewhere: layer by layer, in the layout of kcv's graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcv.errors import WeightsError
from kcv.models.head import HEAD, LOGITS
from kcv.models.inputs import Normalisation
from kcv.models.network import Arrays
from kcv.models.registry import block_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Pretrained:
    """Weights for one architecture.

    Attributes:
        source: where they come from, for people.
        variant: of the graph that they fit, where the architecture has several.
        layers: by the name of the layer, what its `get_weights` is to return.
        normalisation: of the pixels, where it is not the variant's usual one.
        class_names: of the logits, where they are known.
    """

    source: str
    variant: str | None
    layers: Mapping[str, Arrays]
    normalisation: Normalisation | None = None
    class_names: tuple[str, ...] | None = None

    def assign(self, model: keras.Model, *, head: bool) -> None:
        """Puts the weights into a model.

        Args:
            model: of the architecture and variant.
            head: whether the logits are taken as well, or stay as they are.

        Raises:
            WeightsError: a layer is missing, or has another shape; the model is as it was before.
        """
        wanted = [
            layer
            for layer in model.layers
            if layer.weights and (layer.name not in HEAD or (head and layer.name == LOGITS))
        ]
        names = {layer.name for layer in wanted}
        for name in self.layers:
            if name not in names and block_of(model.name, name):
                # A deeper network has all the layers of this one, and others between them.
                raise WeightsError(f"{self.source}: has a layer {name} as well: it does not hold a {model.name}.")
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
