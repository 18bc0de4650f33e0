"""Which values of a native program can be drawn as a heat map, and which of them Grad-CAM looks at by itself."""

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
        after: number of program steps that have run when it is there.
        place: where the program keeps it.
        channels: the axis of its channels as the program holds it: 1 or 3.
        height: in cells.
        width: in cells.
        learned: whether a convolution lies before it, and its layer does more than rearrange.
    """

    layer: str
    after: int
    place: int
    channels: int
    height: int
    width: int
    learned: bool


def feature_maps(program: Program, image: torch.Tensor) -> list[FeatureMap]:
    """Lists the outputs of layers that have height and width (more than one cell), in the order of computation.

    Sizes come from running the program once: graphs inside a model may have been made for open sizes.

    Args:
        program: of a model of one input, [batch, height, width, 3].
        image: one batch to run, of one image: [1, height, width, 3].
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
        held = 1 if axis == 1 or program.values[step.targets[0]].moved else 3
        height, width = (value.shape[i] for i in (1, 2, 3) if i != held)
        if height * width > 1:
            # The map before what only rearranges it is as late and no coarser.
            learned = convolved and not isinstance(step.operation, tuple(REARRANGING))
            found.append(FeatureMap(step.name, number + 1, step.targets[0], held, height, width, learned))
    return found


def choose(maps: Sequence[FeatureMap], layer: str | None = None) -> FeatureMap:
    """Returns the map of a layer, or the one that Grad-CAM is meant for.

    That is the last one with height and width that a convolution has led to, after its normalisation and activation and
    before any pooling: "the best compromise between high-level semantics and detailed spatial information" (Selvaraju
    et al. 2017, "Grad-CAM", arXiv:1610.02391, section 3).

    Args:
        maps: of `feature_maps`.
        layer: a name; of a layer that is called more than once the last call is taken.

    Raises:
        UsageError: no layer of that name has height and width, or there is no convolution to look at.
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
    """Returns where Keras sees the channels of a step's output, if it is a map."""
    operation: Any = step.operation
    data_format = getattr(operation, "data_format", None)
    if data_format is not None:
        return 1 if data_format == "channels_first" else 3
    # Elementwise, or a mere change of how it is held: as the input. What becomes a map first here is taken as Keras'
    # default has it.
    before = next((known[place] for place in step.sources if len(program.values[place].shape) == 4), 3)
    if isinstance(operation, layers.Permute):
        dims = tuple(operation.dims)
        return dims.index(before) + 1 if before in dims else 3
    return before


def _candidates(maps: Sequence[FeatureMap]) -> str:
    """Names the last map of every size, the finest first."""
    last = {(one.height, one.width): one for one in maps}
    shown = list(last.values())[-_MOST_NAMED:]
    return ", ".join(f"{one.layer} ({one.height}x{one.width})" for one in shown) or "none"
