"""A call of an operator, and the methods by which its rule reads the inputs.

Each operator that classifiers need has a rule for the sizes of its outputs and its work. The rules follow the
definitions of opsets 18 to 21 (onnx.ai/onnx/operators). Sizes computed from other sizes, as for a reshape, are tracked
as numbers; sizes that depend on the images are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv.inference.onnx_graph.reading import MOST_KNOWN, Node
from kcv.inference.onnx_graph.wire import Damaged

Shape: TypeAlias = tuple[int, ...]
Rule: TypeAlias = "Callable[[Call], Result]"


class Tensor:
    """A value of a graph, for a given batch size.

    Attributes:
        shape: its shape.
        constant: whether it depends on no image.
        value: its numbers, int64 or float32, if they are few and known.
        size: the number of its elements.
    """

    __slots__ = ("constant", "shape", "size", "value")

    def __init__(self, shape: Shape, constant: bool, value: NDArray[Any] | None = None) -> None:
        self.shape = shape
        self.constant = constant
        self.value = value
        self.size = math.prod(shape)


@dataclass(slots=True, eq=False)
class Result:
    """The result of a call.

    Attributes:
        shapes: the shapes of its outputs.
        products: multiplications and additions; 0 stands for the size of its inputs or outputs, whichever is larger.
        value: the numbers of its output, if known.
    """

    shapes: Sequence[Shape]
    products: int = 0
    value: NDArray[Any] | None = None


class Call:
    """One call of an operator, with its inputs.

    Args:
        node: the node of the call.
        inputs: the inputs; None for an omitted one.
    """

    def __init__(self, node: Node, inputs: Sequence[Tensor | None]) -> None:
        self.node = node
        self.inputs = inputs

    def tensor(self, place: int) -> Tensor:
        """Returns a required input."""
        if place >= len(self.inputs) or (found := self.inputs[place]) is None:
            raise Damaged(f"its {self.node.operator} lacks an input")
        return found

    def shape(self, place: int, axes: int | None = None) -> Shape:
        """Returns the shape of an input, after checking its number of axes if given."""
        shape = self.tensor(place).shape
        if axes is not None and len(shape) != axes:
            raise self.wrong()
        return shape

    def numbers(self, place: int, name: str = "") -> list[int] | None:
        """Returns integers from an input, or from an attribute as in older opsets; None without either."""
        if name in self.node.attributes:
            return self.listed(name)
        if place >= len(self.inputs) or (found := self.inputs[place]) is None:
            return None
        if found.value is None or found.value.dtype.kind != "i":
            raise Damaged(f"its {self.node.operator} gives a tensor whose size is not known before it runs")
        return [int(number) for number in found.value.reshape(-1)]

    def listed(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Returns an attribute that is a list of integers."""
        found = self.node.attributes.get(name, default)
        if not isinstance(found, list | tuple) or len(found) > MOST_KNOWN:
            raise self.wrong()
        return list(found)

    def single(self, name: str, default: int | None = None) -> int:
        """Returns an attribute that is an integer."""
        found = self.node.attributes.get(name, default)
        if not isinstance(found, int):
            raise self.wrong()
        return found

    def word(self, name: str, default: str) -> str:
        """Returns an attribute that is a string."""
        found = self.node.attributes.get(name, default)
        if not isinstance(found, str):
            raise self.wrong()
        return found

    def axis(self, axis: int, axes: int) -> int:
        """Returns the index of an axis, which may be counted from the end."""
        if not -axes <= axis < axes:
            raise self.wrong()
        return axis % axes

    def axes(self, listed: Sequence[int], axes: int) -> list[int]:
        """Returns the indices of distinct axes."""
        found = [self.axis(axis, axes) for axis in listed]
        if len(set(found)) != len(found):
            raise self.wrong()
        return found

    def wrong(self) -> Damaged:
        """Returns the error for inputs or attributes that do not fit the operator."""
        return Damaged(f"its {self.node.operator} cannot take what it is given")


def broadcast(call: Call, *shapes: Shape) -> Shape:
    """Returns the shape that several shapes broadcast to."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise call.wrong() from None
