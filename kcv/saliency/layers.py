"""Finds the layer outputs of a native program that can be drawn as a heat map, and Grad-CAM's default among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from keras import layers

from kcv.errors import UsageError, nearest
from kcv.native.layers import CONVOLUTIONS, REARRANGING
from kcv.native.program import Program, Step

_MOST_NAMED = 12


@dataclass(frozen=True)
class FeatureMap:
    """An output of a layer that has height and width.

    Attributes:
        layer: the layer's name.
        after: the number of program steps after which the output is available.
        place: the index of the program's value that holds it.
        channels: the axis of its channels as stored in the program: 1 or 3.
        height: in cells.
        width: in cells.
        learned: whether a convolution precedes it and its layer does more than rearrange values.
    """

    layer: str
    after: int
    place: int
    channels: int
    height: int
    width: int
    learned: bool


def feature_maps(program: Program, image: torch.Tensor) -> list[FeatureMap]:
    """Lists the layer outputs that have height and width (more than one cell), in the order of computation.

    Sizes come from running the program once, because graphs nested in a model may have been built for unknown sizes.

    Args:
        program: the program of a model with one input, [batch, height, width, 3].
        image: a batch of one image to run, [1, height, width, 3].
    """
    channels = dict.fromkeys(program.inputs, 3)
    values = program.start((image,))
    found: list[FeatureMap] = []
    convolved = False
    for number, step in enumerate(program.steps):
        with torch.no_grad():
            program.advance(values, number, number + 1, training=False)
        axis = _channel_axis(step, program, channels)
        channels.update(dict.fromkeys(step.targets, axis))
        convolved = convolved or isinstance(step.operation, tuple(CONVOLUTIONS))
        if step.operation is None or len(step.targets) != 1:
            continue
        value = values[step.targets[0]]
        if not isinstance(value, torch.Tensor) or value.ndim != 4 or not value.is_floating_point():
            continue
        held = 1 if axis == 1 or program.values[step.targets[0]].transposed else 3
        height, width = (value.shape[i] for i in (1, 2, 3) if i != held)
        if height * width > 1:
            # A layer that only rearranges is not a candidate: its input is just as deep and no coarser.
            learned = convolved and not isinstance(step.operation, tuple(REARRANGING))
            found.append(FeatureMap(step.name, number + 1, step.targets[0], held, height, width, learned))
    return found


def choose(maps: Sequence[FeatureMap], layer: str | None = None) -> FeatureMap:
    """Returns the map of a layer, or the map that Grad-CAM is designed for.

    That is the last map with height and width that depends on a convolution, after normalisation and activation and
    before any pooling: "the best compromise between high-level semantics and detailed spatial information" (Selvaraju
    et al. 2017, "Grad-CAM", arXiv:1610.02391, section 3).

    Args:
        maps: the result of `feature_maps`.
        layer: the layer's name; if it is called more than once, its last call is used.

    Raises:
        UsageError: no layer of that name has height and width, or the model has no convolution to explain.
    """
    learned = [one for one in maps if one.learned]
    if layer is not None:
        named = [one for one in maps if one.layer == layer]
        if named:
            return named[-1]
        hint = nearest(layer, [one.layer for one in maps])
        raise UsageError(
            f"--layer: no layer {layer!r} with height and width.{hint} Candidates: {_candidates(learned)}."
        )
    if not learned:
        raise UsageError("the model has no convolution whose output has height and width: there is no map to draw.")
    return learned[-1]


def _channel_axis(step: Step, program: Program, known: dict[int, int]) -> int:
    """Returns the channel axis of a step's output in Keras, if the output is a map."""
    operation: Any = step.operation
    data_format = getattr(operation, "data_format", None)
    if data_format is not None:
        return 1 if data_format == "channels_first" else 3
    # An elementwise step or a change of layout keeps the axis of its input. An output that becomes a map only here is
    # assumed to have Keras' default axis.
    before = next((known[place] for place in step.sources if len(program.values[place].shape) == 4), 3)
    if isinstance(operation, layers.Permute):
        dims = tuple(operation.dims)
        return dims.index(before) + 1 if before in dims else 3
    return before


def _candidates(maps: Sequence[FeatureMap]) -> str:
    """Returns the names of the last map of each size, the finest first."""
    last = {(one.height, one.width): one for one in maps}
    shown = list(last.values())[-_MOST_NAMED:]
    return ", ".join(f"{one.layer} ({one.height}x{one.width})" for one in shown) or "none"
