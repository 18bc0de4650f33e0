"""Finds the features in an ONNX graph, the input of its last dense layer, and makes them an output of the graph."""

from __future__ import annotations

from kcv.errors import ArtifactError
from kcv.inference.onnx_graph import Graph

_THROUGH = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")
"""Operators that may stand between the dense layer and the output, some of them in int8 files."""
_MODEL_GRAPH, _GRAPH_OUTPUT, _VALUE_NAME = 7, 12, 1  # fields of onnx.proto3
_LENGTH = 2  # the wire type of what has a length


def dense_input(graph: Graph, logits: str, origin: str) -> str:
    """Returns the name of the value that the last dense layer takes.

    Args:
        graph: a graph that has been checked.
        logits: name of the output that the layer computes.
        origin: the file's name, for the message.

    Raises:
        ArtifactError: the last layer is not a dense one.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    name = logits
    for _ in range(len(graph.nodes)):
        node = makers.get(name)
        if node is None:
            break
        if node.operator in ("Gemm", "MatMul"):
            return node.inputs[0]
        if node.operator == "Add":  # the bias of a MatMul
            made = [value for value in node.inputs if value in makers and makers[value].operator == "MatMul"]
            if len(made) != 1:
                break
            name = made[0]
        elif node.operator in _THROUGH:
            name = node.inputs[0]
        else:
            break
    raise ArtifactError(f"{origin}: its last layer is no dense layer, whose input the features are")


def with_output(content: bytes, name: str) -> bytes:
    """Returns an ONNX file with one of its values as a further output.

    Readers of protocol buffers join the parts of a message that stands twice in a file: what is added after the file
    holds a graph of nothing but an output (protobuf.dev/programming-guides/encoding, "Last One Wins").

    Args:
        content: the file.
        name: the value; not yet an output.
    """
    value = _field(_VALUE_NAME, name.encode())
    return content + _field(_MODEL_GRAPH, _field(_GRAPH_OUTPUT, value))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
