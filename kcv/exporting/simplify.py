"""Rewrites of a graph that no exporter does: they keep its function and make it faster to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

_NEVER_NEGATIVE = ("Relu", "Clip")


def simplify(model: onnx.ModelProto) -> None:
    """Rewrites a graph in place.

    Args:
        model: a kcv classifier as exported by torch.
    """
    graph = _Graph(model.graph)
    _turn_bytes_not_floats(graph)
    _fold_rescaling(graph)
    _pool_with_padding(graph)
    _pool_globally(graph)
    graph.sweep()


class _Graph:
    """A graph with methods to move from node to node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.proto = graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {output.name for output in graph.output}

    def nodes(self, kind: str) -> list[NodeProto]:
        return [node for node in self.proto.node if node.op_type == kind]

    def maker(self, name: str) -> NodeProto | None:
        return next((node for node in self.proto.node if name in node.output), None)

    def readers(self, name: str) -> list[NodeProto]:
        return [node for node in self.proto.node if name in node.input]

    def only_reader(self, node: NodeProto) -> NodeProto | None:
        """Returns the only reader of a node's output; None if it has several readers or is an output of the graph."""
        (made,) = node.output
        readers = self.readers(made)
        return readers[0] if len(readers) == 1 and made not in self.outputs else None

    def constant(self, name: str) -> NDArray[Any] | None:
        return numpy_helper.to_array(self.weights[name]) if name in self.weights else None

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Adds a weight under a name, with a number if it is taken, and returns the final name."""
        fresh, number = name, 1
        while fresh in self.weights:
            number += 1
            fresh = f"{name}_{number}"
        tensor = numpy_helper.from_array(values, fresh)
        self.proto.initializer.append(tensor)
        self.weights[fresh] = tensor
        return fresh

    def bypass(self, node: NodeProto) -> None:
        """Removes a node; readers of its output read its first input instead."""
        for reader in self.readers(node.output[0]):
            reader.input[:] = [node.input[0] if name == node.output[0] else name for name in reader.input]
        self.proto.node.remove(node)

    def sweep(self) -> None:
        """Removes unused weights, and the shape information, which may refer to removed values."""
        read = {name for node in self.proto.node for name in node.input}
        for tensor in [tensor for tensor in self.proto.initializer if tensor.name not in read]:
            self.proto.initializer.remove(tensor)
        del self.proto.value_info[:]  # shape inference restores it


def _turn_bytes_not_floats(graph: _Graph) -> None:
    """Moves the transposition to channels-first before the cast to float: it then moves a quarter of the memory."""
    (image,) = graph.proto.input
    chain = list(_chain(graph, image.name))
    if not chain or chain[0].op_type != "Cast" or chain[-1].op_type != "Transpose":
        return
    cast, *between, turn = chain
    (order,) = [list(attribute.ints) for attribute in turn.attribute if attribute.name == "perm"]
    for node in between:
        values = graph.constant(node.input[1])
        if values is None or values.size not in (1, 3):
            return
        if values.size == 3:
            node.input[1] = graph.add(f"{node.name.partition('/')[0]}/{node.op_type.lower()}", values.reshape(3, 1, 1))
    if order != [0, 3, 1, 2]:
        return
    last = between[-1] if between else cast
    for reader in graph.readers(turn.output[0]):
        reader.input[:] = [last.output[0] if name == turn.output[0] else name for name in reader.input]
    cast.input[0], turn.input[0] = turn.output[0], image.name
    graph.proto.node.remove(turn)
    graph.proto.node.insert(0, turn)


def _chain(graph: _Graph, name: str) -> Iterator[NodeProto]:
    """Yields the consecutive operations on the pixels, up to the transposition."""
    readers = graph.readers(name)
    while len(readers) == 1 and readers[0].op_type in ("Cast", "Mul", "Sub", "Div", "Transpose"):
        yield readers[0]
        if readers[0].op_type == "Transpose":
            return
        readers = graph.readers(readers[0].output[0])


def _fold_rescaling(graph: _Graph) -> None:
    """Replaces (x * a - b) / c before a convolution by x - b / a, and multiplies the convolution's kernel by a / c.

    The subtraction of the mean stays in place, because padding adds zeros after it.
    """
    for scale in graph.nodes("Mul"):
        shift = graph.only_reader(scale)
        divide = graph.only_reader(shift) if shift is not None and shift.op_type == "Sub" else None
        if shift is None or divide is None or divide.op_type != "Div":
            continue
        reader = graph.only_reader(divide)
        conv = graph.only_reader(reader) if reader is not None and reader.op_type == "Pad" else reader
        a, b, c = (graph.constant(node.input[1]) for node in (scale, shift, divide))
        if a is None or b is None or c is None or conv is None or conv.op_type != "Conv":
            continue
        kernel = graph.constant(conv.input[1])
        grouped = any(attribute.name == "group" and attribute.i != 1 for attribute in conv.attribute)
        if kernel is None or grouped or len(graph.readers(conv.input[1])) > 1:
            continue
        factor = np.broadcast_to((a.astype(np.float64) / c).reshape(-1), (kernel.shape[1],))
        folded = (kernel * factor[None, :, None, None]).astype(np.float32)
        graph.weights[conv.input[1]].CopyFrom(numpy_helper.from_array(folded, conv.input[1]))
        shift.input[1] = graph.add(shift.input[1], (b.astype(np.float64) / a).astype(np.float32))
        graph.bypass(scale)
        graph.bypass(divide)


def _pool_with_padding(graph: _Graph) -> None:
    """Merges zero padding into a following max pooling if the padded values are never negative."""
    for pad in graph.nodes("Pad"):
        pool, maker = graph.only_reader(pad), graph.maker(pad.input[0])
        pads = graph.constant(pad.input[1])
        value = graph.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(())
        plain = len(pad.input) <= 3 and value is not None and not value.any()
        if pool is None or pool.op_type != "MaxPool" or maker is None or maker.op_type not in _NEVER_NEGATIVE:
            continue
        own = next((list(attribute.ints) for attribute in pool.attribute if attribute.name == "pads"), [0] * 4)
        if not plain or pads is None or len(pads) != 8 or pads[[0, 1, 4, 5]].any() or any(own):
            continue
        if maker.op_type == "Clip" and ((low := graph.constant(maker.input[1])) is None or low < 0):
            continue
        kept = [attribute for attribute in pool.attribute if attribute.name not in ("pads", "auto_pad")]
        del pool.attribute[:]
        pool.attribute.extend([*kept, helper.make_attribute("pads", [int(n) for n in pads[[2, 3, 6, 7]]])])
        graph.bypass(pad)


def _pool_globally(graph: _Graph) -> None:
    """Replaces a mean over height and width by a global average pooling, which runtimes compute in their own layout."""
    for mean in graph.nodes("ReduceMean"):
        axes = graph.constant(mean.input[1]) if len(mean.input) > 1 else None
        if axes is None or sorted(axes.tolist()) not in ([2, 3], [-2, -1]):
            continue
        keeps = all(attribute.i for attribute in mean.attribute if attribute.name == "keepdims")
        reader = graph.only_reader(mean)
        mean.op_type = "GlobalAveragePool"
        del mean.input[1:], mean.attribute[:]
        if keeps:
            continue
        if reader is not None and _restores(graph, reader):
            graph.bypass(reader)
            continue
        pooled = f"{mean.output[0]}_pooled"
        flat = helper.make_node("Flatten", [pooled], [mean.output[0]], name=f"{mean.name.partition('/')[0]}/Flatten")
        mean.output[0] = pooled
        graph.proto.node.insert(list(graph.proto.node).index(mean) + 1, flat)


def _restores(graph: _Graph, reshape: NodeProto) -> bool:
    """Returns whether a node only restores the height and width of 1 of a pooled image."""
    if reshape.op_type != "Reshape" or reshape.output[0] in graph.outputs:
        return False
    shape = graph.constant(reshape.input[1])
    return shape is not None and len(shape) == 4 and shape[2:].tolist() == [1, 1]
