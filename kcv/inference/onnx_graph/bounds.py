"""Bounds the memory and time that an ONNX file needs, before onnxruntime opens it.

When onnxruntime opens a file, it computes everything that does not depend on an image, without a bound; nor does it
bound later computation. Therefore each operator must be known (`rules`), the size of its
outputs and its work are computed for a batch, and a file that needs more than classifiers do is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kcv.inference.onnx_graph.calls import Call, Shape, Tensor
from kcv.inference.onnx_graph.reading import MOST_AXES, Graph, Node
from kcv.inference.onnx_graph.rules import ELEMENTWISE_RULES, MOVING_RULES, WINDOW_RULES
from kcv.inference.onnx_graph.wire import Damaged

OPSETS: Final = (18, 21)
"""The first and the last supported version of ONNX's operators: the range that kcv has written so far."""
MOST_NODES: Final = 20_000

_RULES: Final = {**ELEMENTWISE_RULES, **MOVING_RULES, **WINDOW_RULES}
_BATCHES: Final = (2, 3)
"""The cost is computed for both batch sizes: it must grow in proportion to the batch."""
_MOST_NUMBERS: Final = 2**40
"""The maximum size of a single value during this computation."""


@dataclass(frozen=True)
class Limit:
    """The maximum cost of one image.

    Attributes:
        least: the limit for an image of any size.
        pixel: the limit per pixel, for larger images.
        unit: the unit of both, for messages.
    """

    least: int
    pixel: int
    unit: str

    def check(self, wanted: int, pixels: int) -> None:
        """Raises Damaged if an image of this many pixels needs more."""
        if wanted > max(self.least, self.pixel * pixels):
            raise Damaged(f"wants {wanted:,} {self.unit} for one image, more than a classifier does")


AT_ONCE: Final = Limit(2**22, 2**10, "numbers in memory")
"""The widest custom CNN needs 800 per pixel, at full resolution; VGG needs 130, ResNet-50 needs 40."""
IN_ALL: Final = Limit(2**26, 2**13, "numbers")
"""The same networks compute 2,500, 700 and 500 per pixel; three times as many in int8, because of conversions."""
PRODUCTS: Final = Limit(2**36, 2**20, "multiplications")
"""The widest custom CNN needs 5 million per pixel, up to 64 x 64 pixels; ResNet-50 needs 0.1 million."""
_MOST_FOLDED: Final = 2**20
"""The maximum of computed numbers that depend on no image, beyond four times the numbers stored in the file."""
_MOST_FOLDING: Final = 2**28
"""The maximum of products to compute them: a tenth of a second."""


@dataclass
class Demand:
    """The cost of a computation, either for a batch or of the part that depends on no image.

    Attributes:
        tensors: all values so far, by name.
        made: the total size of the computed values, in numbers.
        products: multiplications and additions for them.
        at_once: the peak size of the values of a batch that are still needed, if operators run sequentially.
    """

    tensors: dict[str, Tensor]
    made: int = 0
    products: int = 0
    at_once: int = 0

    def add(self, node: Node, constant: bool) -> int:
        """Adds the outputs and the work of an operator; returns the total size of its outputs."""
        tensors = self.tensors
        inputs = [tensors[name] if name else None for name in node.inputs]
        call = Call(node, inputs)
        result = _RULES[node.operator](call)
        if len(result.shapes) != len(node.outputs):
            raise call.wrong()
        made = 0
        for name, shape in zip(node.outputs, result.shapes, strict=True):
            tensors[name] = given = Tensor(shape, constant, result.value)
            made += given.size
            if len(shape) > MOST_AXES or min(shape, default=1) < 1 or given.size > _MOST_NUMBERS:
                raise Damaged(f"its {node.operator} gives a tensor of an impossible size")
        self.made += made
        self.products += result.products or max(made, sum([tensor.size for tensor in inputs if tensor is not None]))
        return made


def check(graph: Graph, pixels: int) -> None:
    """Checks that a graph is that of a classifier and bounded in memory and time.

    Args:
        graph: a graph with one input, uint8 [batch, height, width, 3].
        pixels: height x width.

    Raises:
        Damaged: the graph fails the check.
    """
    if not OPSETS[0] <= graph.opset <= OPSETS[1]:
        raise Damaged(f"is written in opset {graph.opset}; those from {OPSETS[0]} to {OPSETS[1]} are opened")
    if len(graph.nodes) > MOST_NODES:
        raise Damaged(f"has more than {MOST_NODES:,} operators")
    for node in graph.nodes:
        if node.operator not in _RULES:
            raise Damaged(f"runs the operator {node.operator[:60]!r}, which no classifier needs")
    folded, nodes = _folded(graph, _in_order(graph))
    ended = _ended(graph, nodes, folded.tensors)
    some, more = (_demand(graph, nodes, ended, folded.tensors, batch) for batch in _BATCHES)
    _check_values(graph, some, more)
    AT_ONCE.check(more.at_once // _BATCHES[1], pixels)
    IN_ALL.check(more.made // _BATCHES[1], pixels)
    PRODUCTS.check(more.products // _BATCHES[1], pixels)


def _check_values(graph: Graph, some: Demand, more: Demand) -> None:
    """Checks that values grow in proportion to the batch, as in a classifier, and have the shapes the file declares."""
    for name, tensor in some.tensors.items():
        if not tensor.constant and tensor.value is None:
            _check_growth(name, tensor.size, more.tensors[name].size)
    if more.products * _BATCHES[0] > some.products * _BATCHES[1]:
        raise Damaged("works longer for each image of a larger batch, which no classifier does")
    for value in graph.outputs:
        if value.name not in some.tensors:
            raise Damaged(f"does not compute its output {value.name[:60]!r}")
    for value in (*graph.outputs, *graph.values):
        if value.name in some.tensors and not _agrees(value.shape, some.tensors[value.name].shape):
            raise Damaged(f"says something else of {value.name[:60]!r} than it computes")


def _demand(
    graph: Graph, nodes: Sequence[Node], ended: Sequence[Sequence[str]], known: Mapping[str, Tensor], batch: int
) -> Demand:
    """Computes the cost of a batch.

    Args:
        graph: a graph of known operators.
        nodes: the nodes that depend on the images, in topological order.
        ended: for each node, the names of the values that no later node reads.
        known: the values that depend on no image.
        batch: the number of images.

    Raises:
        Damaged: an operator does not accept its inputs, or the size of a value cannot be determined in advance.
    """
    found = Demand(dict(known))
    tensors = found.tensors
    for value in graph.inputs:
        tensors[value.name] = Tensor(tuple(batch if size is None else size for size in value.shape), False)
    now = sum(tensors[value.name].size for value in graph.inputs)
    for node, names in zip(nodes, ended, strict=True):
        now += found.add(node, False)
        found.at_once = max(found.at_once, now)
        for name in names:
            now -= tensors[name].size
    return found


def _ended(graph: Graph, nodes: Sequence[Node], known: Container[str]) -> list[list[str]]:
    """Returns, for each node, the values that no later node reads, except those that depend on no image."""
    last = {name: number for number, node in enumerate(nodes) for name in (*node.outputs, *node.inputs)}
    ended: list[list[str]] = [[] for _ in nodes]
    for name in last.keys() - {"", *(value.name for value in graph.outputs)}:
        if name not in known:
            ended[last[name]].append(name)
    return ended


def _folded(graph: Graph, nodes: Sequence[Node]) -> tuple[Demand, list[Node]]:
    """Computes the values that depend on no image, the same for all batches; returns them and the remaining nodes."""
    found = Demand({name: Tensor(weight.shape, True, weight.value) for name, weight in graph.weights.items()})
    stored = sum(tensor.size for tensor in found.tensors.values())
    left = []
    for node in nodes:
        if all(not name or name in found.tensors for name in node.inputs):
            found.add(node, True)
        else:
            left.append(node)
    if found.made > _MOST_FOLDED + 4 * stored or found.products > _MOST_FOLDING:
        raise Damaged(f"computes {found.made:,} numbers that depend on no image, more than a classifier does")
    return found, left


def _in_order(graph: Graph) -> list[Node]:
    """Returns the nodes in topological order, after checking that each value is computed once."""
    made = {*graph.weights, *(value.name for value in graph.inputs)}
    if len(made) != len(graph.weights) + len(graph.inputs):
        raise Damaged("holds weights that are inputs as well")
    readers: dict[str, list[int]] = {}
    lacking = []
    names = set(made)
    for number, node in enumerate(graph.nodes):
        for name in node.outputs:
            if not name or name in names:
                raise Damaged(f"makes {name[:60]!r} twice, or without a name")
            names.add(name)
        needed = {name for name in node.inputs if name and name not in made}
        lacking.append(len(needed))
        for name in needed:
            readers.setdefault(name, []).append(number)
    ready = deque(number for number, count in enumerate(lacking) if count == 0)
    return list(_freed(graph, ready, lacking, readers))


def _freed(graph: Graph, ready: deque[int], lacking: list[int], readers: dict[str, list[int]]) -> Iterator[Node]:
    count = 0
    while ready:
        node = graph.nodes[ready.popleft()]
        yield node
        count += 1
        for name in node.outputs:
            for reader in readers.get(name, ()):
                lacking[reader] -= 1
                if lacking[reader] == 0:
                    ready.append(reader)
    if count != len(graph.nodes):
        raise Damaged("needs a value that nothing makes")


def _check_growth(name: str, some: int, more: int) -> None:
    """Checks that a value grows in proportion to the batch; otherwise it would be unbounded."""
    if some * _BATCHES[1] != more * _BATCHES[0]:
        raise Damaged(f"mixes images in {name[:60]!r}, which no classifier does")


def _agrees(said: Sequence[int | None], computed: Shape) -> bool:
    """Returns whether the declared shape of a value agrees with the one computed for the first batch size."""
    if not said:  # no shape is declared, or it is a scalar
        return True
    return len(said) == len(computed) and all(a is None or a == b for a, b in zip(said, computed, strict=True))
