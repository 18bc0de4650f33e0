"""Initial weights of a model of the user's own: those of an earlier run of the same model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import keras

from kcv.errors import WeightsError
from kcv.inference import opening
from kcv.inference.locating import model_file, source_of
from kcv.models.pretrained import Pretrained


def read(asked: str) -> Pretrained | None:
    """Reads the weights that `model.weights` names; None if it names none.

    Args:
        asked: `auto` or `none`, which leave the model as the user's function returns it; or a model file of kcv, or the
            folder of a run.

    Raises:
        WeightsError: there is no such file, or it is not a `.keras` file.
        ArtifactError: the file cannot be opened.
    """
    if asked in ("auto", "none"):
        return None
    path = Path(model_file(asked))
    if path.suffix != ".keras":
        raise WeightsError(
            f"model.weights: {asked}: weights of a model of your own are read from .keras files that kcv has written; "
            "the function itself may read others"
        )
    if not os.path.isfile(path):
        raise WeightsError(f"model.weights: {asked}: no such file; allowed: auto, none, or a .keras file.")
    found = opening.load(path, device="cpu")
    layers = {layer.name: layer.get_weights() for layer in found.keras_model.layers if layer.weights}
    return Pretrained(source_of(path), None, layers, class_names=found.info.class_names)


def assign(pretrained: Pretrained, model: keras.Model, class_names: Sequence[str], name: str) -> None:
    """Assigns weights to a model, layer by layer in order: names of layers contain running numbers.

    The last layer with weights, that of the logits, takes its weights only if both have the same classes.

    Args:
        pretrained: the weights of the same model, as returned by `read`.
        model: the user's model.
        class_names: the classes of its logits.
        name: what to call it in messages.

    Raises:
        WeightsError: the weights are those of another model; the model is then unchanged.
    """
    theirs, ours = list(pretrained.layers.values()), [layer for layer in model.layers if layer.weights]
    if pretrained.class_names != tuple(class_names):
        theirs, ours = theirs[:-1], ours[:-1]
    shapes = [[array.shape for array in arrays] for arrays in theirs]
    wanted = [[tuple(weight.shape) for weight in layer.weights] for layer in ours]
    if shapes != wanted:
        place = next((i for i, pair in enumerate(zip(shapes, wanted, strict=False)) if pair[0] != pair[1]), None)
        count = f"{len(shapes)} layers with weights instead of {len(wanted)}"
        where = count if place is None else f"other shapes at its layer {list(pretrained.layers)[place]}"
        raise WeightsError(f"{pretrained.source}: holds another model than {name} returns: {where}")
    for layer, arrays in zip(ours, theirs, strict=True):
        layer.set_weights(list(arrays))
