"""Reads an ONNX file into plain values, without onnx and onnxruntime."""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kcv.common import untrusted
from kcv.errors import ArtifactError
from kcv.inference.onnx_graph.messages import MODEL, OTHER_FILES
from kcv.inference.onnx_graph.wire import Damaged, Walker

FLOAT, UINT8, INT64 = 1, 2, 7
"""Element types, by ONNX's numbers."""

_SIZES: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes per number, by element type: numbers of 8 to 64 bits, and booleans."""
_FIELDS: Final[dict[str, tuple[tuple[int, ...], bool]]] = {
    "floats": ((1,), False),
    "doubles": ((11,), False),
    "int32s": ((2, 3, 4, 5, 6, 9, 10, 16), True),
    "int64s": ((7,), True),
    "uint64s": ((12, 13), True),
}
"""The element types permitted in each field of numbers, and whether the field holds single numbers or byte spans."""
_READ: Final = {FLOAT: "<f4", 6: "<i4", INT64: "<i8"}
"""Element types that sizes are given in."""
MOST_AXES: Final = 8
MOST_KNOWN: Final = 64
"""The maximum size of a tensor whose values are read: shapes and axes are short."""


@dataclass(slots=True, eq=False)
class Weight:
    """A tensor stored in the file.

    Attributes:
        shape: its shape.
        value: its numbers, int64 or float32, if they are few and may be sizes; None otherwise.
    """

    shape: tuple[int, ...]
    value: NDArray[Any] | None


@dataclass(slots=True, eq=False)
class Node:
    """One call of an operator.

    Attributes:
        operator: the operator's name, prefixed with its domain if it is not an ONNX operator.
        inputs: names of values; empty for an omitted input.
        outputs: names of values.
        attributes: ints, floats, lists of ints, texts and `Weight`; None for those that do not affect shapes.
    """

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Value:
    """An input or output: its name, its element type, and its shape, with None for unknown sizes."""

    name: str
    element: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """The content of a file.

    Attributes:
        opset: version of ONNX's operators.
        metadata: texts by key.
        inputs: inputs of the graph.
        outputs: outputs of the graph.
        weights: weights by name.
        nodes: nodes in the order of the file.
        values: the declared types and shapes of intermediate values.
    """

    opset: int
    metadata: Mapping[str, str]
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    values: Sequence[Value]
    weights: Mapping[str, Weight]
    nodes: Sequence[Node]


def read_graph(path: Path) -> Graph:
    """Reads an ONNX file.

    Raises:
        ArtifactError: it is missing, damaged, or contains something that the graph of a classifier does not.
    """
    with (
        untrusted.opened(path, ArtifactError, "model.onnx") as stream,
        untrusted.refusing(path, ArtifactError, "cannot be opened as an ONNX model"),
    ):
        if os.fstat(stream.fileno()).st_size == 0:
            raise Damaged("is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Reading(content).graph()
            except Damaged as error:
                if str(error) == OTHER_FILES:
                    raise ArtifactError(f"{path}: {error}") from None
                raise


class _Reading:
    """Builds a `Graph` from the content of a file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content

    def graph(self) -> Graph:
        model = Walker(self._content).read(MODEL, 0, len(self._content))
        graph = model.get("graph")
        if graph is None:
            raise Damaged("holds no graph")
        versions = {entry.get("domain", ""): entry.get("version", 0) for entry in model.get("opsets", [])}
        metadata = _pairs(model.get("metadata", []))
        weights: dict[str, Weight] = {}
        for tensor in graph.get("weights", []):
            name = tensor.get("name", "")
            if not name or name in weights:
                raise Damaged("holds weights without a name of their own")
            weights[name] = self._weight(tensor)
        return Graph(
            opset=versions.get("", versions.get("ai.onnx", 0)),
            metadata=metadata,
            inputs=[_value(value) for value in graph.get("inputs", [])],
            outputs=[_value(value) for value in graph.get("outputs", [])],
            values=[_value(value) for value in graph.get("values", [])],
            weights=weights,
            nodes=[self._node(node) for node in graph.get("nodes", [])],
        )

    def _weight(self, tensor: Mapping[str, Any]) -> Weight:
        if tensor.get("place", 0):
            raise Damaged(OTHER_FILES)
        shape, element = tuple(tensor.get("dims", ())), tensor.get("element", 0)
        if element not in _SIZES or len(shape) > MOST_AXES or min(shape, default=0) < 0:
            raise Damaged("holds a tensor of an unknown kind")
        size, width = math.prod(shape), _SIZES[element]
        start, end = tensor.get("raw", (0, 0))
        stored = end - start
        for field, (kinds, single) in _FIELDS.items():
            if found := tensor.get(field):
                if element not in kinds:
                    raise Damaged("holds a tensor of two kinds")
                stored += width * len(found) if single else sum(end - start for start, end in found)
        if stored != width * size:
            raise Damaged("holds a tensor whose content is not what it says")
        return Weight(shape, self._known(tensor, element, shape) if size <= MOST_KNOWN else None)

    def _known(self, tensor: Mapping[str, Any], element: int, shape: tuple[int, ...]) -> NDArray[Any] | None:
        if element not in _READ:
            return None
        if element == FLOAT:
            spans = tensor.get("floats", []) + ([tensor["raw"]] if "raw" in tensor else [])
            pieces = b"".join(self._content[start:end] for start, end in spans)
            return np.frombuffer(pieces, "<f4").astype(np.float32).reshape(shape)
        listed = tensor.get("int32s", []) + tensor.get("int64s", [])
        if "raw" in tensor:
            start, end = tensor["raw"]
            listed = np.frombuffer(self._content[start:end], _READ[element])
        return np.array(listed, np.int64).reshape(shape)

    def _node(self, node: Mapping[str, Any]) -> Node:
        attributes: dict[str, Any] = {}
        for entry in node.get("attributes", []):
            if entry.get("name", "") in attributes:
                raise Damaged("holds an attribute twice in a node")
            attributes[entry.get("name", "")] = self._attribute(entry)
        domain = node.get("domain", "")
        operator = node.get("operator", "")
        return Node(
            operator if domain in ("", "ai.onnx") else f"{domain}.{operator}",
            node.get("inputs", []),
            node.get("outputs", []),
            attributes,
        )

    def _attribute(self, entry: Mapping[str, Any]) -> Any:
        kind = entry.get("type", 0)
        if "tensors" in entry:
            for tensor in entry["tensors"]:
                self._weight(tensor)
        if "tensor" in entry:
            weight = self._weight(entry["tensor"])
            return weight if kind == 4 else None
        if kind == 1 and "float" in entry:
            return struct.unpack("<f", self._content[slice(*entry["float"])])[0]
        if kind == 2:
            return entry.get("int", 0)
        if kind == 3 and "text" in entry:
            start, end = entry["text"]
            return self._content[start : min(end, start + 100)].decode("ascii", "replace")
        return entry.get("ints", []) if kind == 7 else None


def _pairs(entries: Sequence[Mapping[str, str]]) -> dict[str, str]:
    found = {entry.get("key", ""): entry.get("value", "") for entry in entries}
    if len(found) != len(entries):
        raise Damaged("holds an entry twice in its description")
    return found


def _value(value: Mapping[str, Any]) -> Value:
    tensor = value.get("type", {}).get("tensor")
    if tensor is None:
        raise Damaged("holds a value that is no tensor")
    sizes = tensor.get("shape", {}).get("sizes", [])
    return Value(value.get("name", ""), tensor.get("element", 0), tuple(size.get("value") for size in sizes))
