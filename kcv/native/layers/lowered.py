"""What the lowering of one layer gives, what it is told about its inputs, and which layers have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor


class Unsupported(Exception):
    """A layer, or one of its options, has no native form; its message says which. The layer is then called as it is."""


@dataclass(frozen=True)
class Value:
    """A tensor between layers, as it is known before any is run.

    Attributes:
        shape: as Keras sees it, None where it may vary.
        dtype: as Keras sees it.
        moved: Keras sees [n, h, w, c], but the program holds [n, c, h, w]. Of a layer's input: how it is at hand; the
            walker moves it where the layer asks for the other.
        spare: nobody else reads it, and its maker does not need it for its gradient: it may be overwritten.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype
    moved: bool = False
    spare: bool = False


Run: TypeAlias = Callable[..., Tensor]
"""`run(training, *inputs)`: the native form of a layer."""


@dataclass(frozen=True)
class Lowered:
    """The native form of a layer.

    Attributes:
        run: called with the mode and the inputs.
        wants_moved: image inputs are to be held [n, c, h, w] although Keras sees [n, h, w, c].
        gives_moved: so is the output.
        spares: the gradient does not need the output's values.
    """

    run: Run
    wants_moved: bool = False
    gives_moved: bool = False
    spares: bool = False


@dataclass(frozen=True)
class Target:
    """What the program is lowered for.

    Attributes:
        memory_format: of image tensors and kernels inside the program.
        in_place: whether values that nobody reads any more are overwritten.
        all_reduce_sum: replaces a tensor by its sum over all processes that share a batch, and batch normalisation by
            the statistics of the whole batch; None: each process normalises by those of its own part.
        rank: of the process, so that no two drop the same values.
    """

    memory_format: torch.memory_format = torch.contiguous_format
    in_place: bool = True
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None
    rank: int = 0


Lowering: TypeAlias = Callable[[Any, Sequence[Value], Target], Lowered]
"""`lower(layer, inputs, target)`; raises `Unsupported`."""


LOWERINGS: dict[type, Lowering] = {}
"""Keyed by the class itself: a subclass may compute something else, so it is called as it is."""
CONVOLUTIONS: list[type] = []
"""Layers that learn what to look for in an image, whether they have a native form or not."""
REARRANGING: list[type] = []
"""Layers that only thin, move or repeat a map that is there already."""

_Form = TypeVar("_Form", bound=Lowering)


def lowers(*classes: type, convolution: bool = False, rearranges: bool = False) -> Callable[[_Form], _Form]:
    """Makes a function the lowering of Keras layers.

    Args:
        classes: the layers that it lowers.
        convolution: see `CONVOLUTIONS`.
        rearranges: see `REARRANGING`.

    Example:
        @lowers(layers.Identity, rearranges=True)
        def lower_identity(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
            return Lowered(lambda training, x: x)

    Raises:
        ValueError: one of them has a lowering.
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
    """Says what kind of layers those are that have no native form; arguments as of `lowers`."""
    CONVOLUTIONS.extend(classes if convolution else ())
    REARRANGING.extend(classes if rearranges else ())


def compute_dtype(layer: Any) -> torch.dtype:
    """Returns the number format that a layer computes in."""
    dtype: torch.dtype = getattr(torch, str(layer.compute_dtype))
    return dtype


def is_moved(layer: Any) -> bool:
    """Whether an image layer's tensors have to be moved: torch wants [n, c, h, w] and the layer has channels last."""
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
    """Returns the torch dtype of a Keras dtype's name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
