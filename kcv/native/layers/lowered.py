"""The types and the registry for lowering layers: native forms, properties of values, and targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from kcv.native.kernels import Kernels, Sides
from kcv.native.layers.moving import MovingStatistics


class Unsupported(Exception):
    """A layer or one of its options has no native form, as named in the message; Keras then runs the layer."""


@dataclass(frozen=True)
class Value:
    """The properties of a tensor between layers, known before anything runs.

    Attributes:
        shape: the shape that Keras sees, with None for dimensions that may vary.
        dtype: the dtype that Keras sees.
        transposed: Keras sees [n, h, w, c], but the program holds [n, c, h, w]. For a layer's input: its current order;
            a step transposes it if the layer asks for the other order.
        reusable: no other consumer, and not saved for backward, so it may be overwritten in place.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype
    transposed: bool = False
    reusable: bool = False


Run: TypeAlias = Callable[..., Tensor]
"""`run(training, *inputs)`: the native form of a layer."""


@dataclass(frozen=True)
class Lowered:
    """The native form of a layer.

    Attributes:
        run: called with the mode and the inputs.
        input_transposed: image inputs must be held as [n, c, h, w] although Keras sees [n, h, w, c].
        output_transposed: the same holds for the output.
        output_reusable: the backward pass does not need the output's values.
        padding: if the layer does nothing but pad images with zeros: how. A convolution behind it then does so itself.
        padded: returns `run` for an input that still has to be padded like that; None if there is no such form.
        scaled: `run` of a convolution without activation, with two more arguments: a scale and a shift for each channel
            of its output, [c] both. It takes `sides` by name, too.
        affine: if the layer scales and shifts channels: called with the mode; returns the scale and the shift of each,
            [c] both, or None where they depend on the batch.
        activation: if the layer is nothing but an activation that `kcv.native.kernels` knows: its name there.
        activated: returns `run` of a layer together with the activation behind it, by that name; None if there is no
            such form.
        followed_by: what comes after the scale and the shift of `affine`; None: nothing.
    """

    run: Run
    input_transposed: bool = False
    output_transposed: bool = False
    output_reusable: bool = False
    padding: Sides | None = None
    padded: Callable[[Sides], Run] | None = None
    scaled: Run | None = None
    affine: Callable[[bool], tuple[Tensor, Tensor] | None] | None = None
    activation: str | None = None
    activated: Callable[[str], Run] | None = None
    followed_by: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Target:
    """What a program is lowered for.

    Attributes:
        memory_format: memory format of image tensors and kernels inside the program.
        in_place: whether values that are no longer needed may be overwritten.
        keeps_layers: whether each layer has a step of its own, for a caller that looks at their outputs; else layers
            are computed together where that is faster.
        all_reduce_sum: replaces a tensor with its sum over all processes that share a batch; batch normalisation then
            uses the statistics of the whole batch. None: each process normalises with those of its own part.
        rank: rank of the process, so that dropout masks differ between processes.
        kernels: compiled kernels for CPUs; None: torch computes everything.
        statistics: updates the moving statistics of all batch normalisations after a pass. `lower` makes new ones for
            each program.
    """

    memory_format: torch.memory_format = torch.contiguous_format
    in_place: bool = True
    keeps_layers: bool = False
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None
    rank: int = 0
    kernels: Kernels | None = None
    statistics: MovingStatistics = field(default_factory=MovingStatistics)


Lowering: TypeAlias = Callable[[Any, Sequence[Value], Target], Lowered]
"""`lower(layer, inputs, target)`; raises `Unsupported`."""


LOWERINGS: dict[type, Lowering] = {}
"""Keyed by the exact class: a subclass may compute something else, so it runs through Keras."""
CONVOLUTIONS: list[type] = []
"""Layers that learn image features, whether or not they have a native form."""
REARRANGING: list[type] = []
"""Layers that only drop, move or repeat values of an existing map."""

_Form = TypeVar("_Form", bound=Lowering)


def lowers(*classes: type, convolution: bool = False, rearranges: bool = False) -> Callable[[_Form], _Form]:
    """Registers a function as the lowering of Keras layers.

    Args:
        classes: the layer classes that it lowers.
        convolution: see `CONVOLUTIONS`.
        rearranges: see `REARRANGING`.

    Example:
        @lowers(layers.Identity, rearranges=True)
        def lower_identity(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
            return Lowered(lambda training, x: x)

    Raises:
        ValueError: one of them already has a lowering.
    """
    left_to_keras(*classes, convolution=convolution, rearranges=rearranges)

    def register(lowering: _Form) -> _Form:
        for layer in classes:
            if layer in LOWERINGS:
                raise ValueError(f"{layer.__name__} has two lowerings")
            LOWERINGS[layer] = lowering
        return lowering

    return register


def left_to_keras(*classes: type, convolution: bool = False, rearranges: bool = False) -> None:
    """Registers the kind of layers that have no native form; same arguments as `lowers`."""
    CONVOLUTIONS.extend(classes if convolution else ())
    REARRANGING.extend(classes if rearranges else ())


def compute_dtype(layer: Any) -> torch.dtype:
    """Returns the dtype that a layer computes in."""
    dtype: torch.dtype = getattr(torch, str(layer.compute_dtype))
    return dtype


def needs_transposing(layer: Any) -> bool:
    """Whether an image layer's tensors must be transposed: torch needs [n, c, h, w] and the layer is channels-last."""
    return bool(layer.data_format == "channels_last")


def require(condition: bool, reason: str) -> None:
    """Raises `Unsupported` unless the condition holds."""
    if not condition:
        raise Unsupported(reason)


def to_torch_order(training: bool, x: Tensor) -> Tensor:
    """Moves [n, h, w, c] to [n, c, h, w], as a view."""
    return x.permute(0, 3, 1, 2)


def to_keras_order(training: bool, x: Tensor) -> Tensor:
    """Moves [n, c, h, w] to [n, h, w, c], as a view."""
    return x.permute(0, 2, 3, 1)


def torch_dtype(name: str) -> torch.dtype:
    """Returns the torch dtype for the name of a Keras dtype."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
