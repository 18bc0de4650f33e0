"""Reads a graph of OpenVINO (`.xml`, and its weights in `.bin`) before OpenVINO does, without its package.

The graph is turned into kcv's form of an ONNX graph, layer by layer, so that the same rules bound its memory and work
(`kcv.inference.onnx_graph.check`). What was understood is written again, and OpenVINO is given that: nothing reaches it
that the two parsers could understand differently.

Source: OpenVINO documentation, "OpenVINO IR format" and "Operation Sets".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

from kcv.common import untrusted
from kcv.errors import ArtifactError
from kcv.inference.onnx_graph import FLOAT, UINT8, Damaged, Graph, Node, Value, Weight
from kcv.inference.onnx_graph.bounds import MOST_NODES, OPSETS
from kcv.inference.onnx_graph.reading import MOST_AXES, MOST_KNOWN

ENTRY: Final = "kcv"
"""The entry of the file's information (`rt_info`) that holds the texts of the description."""
WEIGHTS_DIGEST: Final = "weights_file_sha256"
"""The text that holds the SHA-256 (hex) of the `.bin` file, so that files of two exports are not mixed."""
WEIGHTS_SUFFIX: Final = ".bin"

_MOST_XML: Final = 64 * 2**20
_MOST_WEIGHTS: Final = 4 * 2**30
_MOST_ELEMENTS: Final = 1_000_000
_MOST_DEPTH: Final = 12
_MOST_REPEATED: Final = 2
"""The weights together, relative to the file: equal ones are stored once."""
_SLACK: Final = 128 * 2**20
"""Bytes of weights that are allowed in addition: an untrained network has many equal kernels."""
_ELEMENTS: Final = {"f32": "<f4", "i64": "<i8", "i32": "<i4", "u8": "<u1", "i8": "<i1", "boolean": "<u1"}
_VALUES: Final = {"f32": FLOAT, "FP32": FLOAT, "u8": UINT8, "U8": UINT8}


@dataclass(frozen=True)
class Layer:
    """One layer, with its inputs in their order.

    Attributes:
        identity: its number in the file.
        kind: the operation.
        version: the operation set.
        name: its name.
        attributes: of its `data`.
        inputs: the layer and port that each input comes from.
        outputs: its output ports: number, element type, names and shape, with -1 for the batch.
    """

    identity: str
    kind: str
    version: str
    name: str
    attributes: Mapping[str, str]
    inputs: Sequence[tuple[str, str]]
    outputs: Sequence[tuple[str, str, str, tuple[int, ...]]]


@dataclass(frozen=True)
class Checked:
    """What a pair of files holds.

    Attributes:
        graph: the graph, in the form of ONNX; its metadata are the texts of the description.
        layers: the layers.
        weights: the content of the `.bin` file.
    """

    graph: Graph
    layers: Sequence[Layer]
    weights: bytes

    def xml(self) -> bytes:
        """Returns the graph as OpenVINO reads it: what was understood of the file, and nothing else."""
        return _written(self.layers)


def read(path: Path) -> Checked:
    """Reads a pair of files; the second has the same name and the suffix `.bin`.

    Raises:
        ArtifactError: one is missing or damaged, they do not belong together, or the graph holds what that of a
            classifier does not.
    """
    content = untrusted.read_bytes(path, _MOST_XML, ArtifactError)
    weights = untrusted.read_bytes(path.with_suffix(WEIGHTS_SUFFIX), _MOST_WEIGHTS, ArtifactError)
    with untrusted.refusing(path, ArtifactError, "cannot be opened as an OpenVINO model"):
        root = _parsed(content)
        texts = _texts(root)
        digest = texts.pop(WEIGHTS_DIGEST, None)
        if digest is not None and digest != hashlib.sha256(weights).hexdigest():
            raise ArtifactError(f"{path.with_suffix(WEIGHTS_SUFFIX)}: is not the one that belongs to {path.name}")
        layers = list(_layers(root))
        return Checked(_Translation(layers, weights, texts).graph(), layers, weights)


class _Bounded(ElementTree.TreeBuilder):
    """Builds the tree of a document with a bounded number of elements and depth, without entities and DTD."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._count = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        self._depth += 1
        self._count += 1
        if self._depth > _MOST_DEPTH or self._count > _MOST_ELEMENTS:
            raise Damaged("has more elements than a classifier needs")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Damaged("has a document type, which no model has")


def _parsed(content: bytes) -> ElementTree.Element:
    text = content.decode("utf-8")  # whatever encoding the document names
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Damaged("has a document type, which no model has")
    root: ElementTree.Element = ElementTree.fromstring(text, parser=ElementTree.XMLParser(target=_Bounded()))
    if root.tag != "net" or root.get("version") != "11":
        raise Damaged("is no graph of version 11")
    return root


def _texts(root: ElementTree.Element) -> dict[str, str]:
    """Returns the description's texts by name."""
    found = root.findall(f"rt_info/{ENTRY}/*")
    texts = {entry.tag: entry.get("value", "") for entry in found}
    if len(texts) != len(found):
        raise Damaged("holds an entry twice in its description")
    return texts


def _layers(root: ElementTree.Element) -> Iterator[Layer]:
    sources: dict[tuple[str, str], tuple[str, str]] = {}
    for edge in root.findall("edges/edge"):
        to = (edge.get("to-layer", ""), edge.get("to-port", ""))
        if to in sources:
            raise Damaged("gives an input twice")
        sources[to] = (edge.get("from-layer", ""), edge.get("from-port", ""))
    found = root.findall("layers/layer")
    identities = {layer.get("id", "") for layer in found}
    if len(identities) != len(found) or not all(identity.isascii() and identity.isdigit() for identity in identities):
        raise Damaged("has layers without a number of their own")
    if len(found) > MOST_NODES:
        raise Damaged(f"has more than {MOST_NODES:,} layers")
    for layer in found:
        identity = layer.get("id", "")
        data = layer.find("data")
        try:
            inputs = [sources[identity, port.get("id", "")] for port in layer.findall("input/port")]
        except KeyError:
            raise Damaged("has an input that nothing gives") from None
        yield Layer(
            identity,
            layer.get("type", ""),
            layer.get("version", ""),
            layer.get("name", ""),
            dict(data.attrib) if data is not None else {},
            inputs,
            [_port(port) for port in layer.findall("output/port")],
        )


def _port(port: ElementTree.Element) -> tuple[str, str, str, tuple[int, ...]]:
    shape = tuple(int(size.text or "") for size in port.findall("dim"))
    if len(shape) > MOST_AXES or min(shape, default=1) < -1 or not port.get("id", "").isdigit():
        raise Damaged("has an output of an impossible shape")
    return port.get("id", ""), port.get("precision", ""), port.get("names", ""), shape


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")] if text.strip() else []


def _window(layer: Layer) -> dict[str, Any]:
    """Returns the attributes of a sliding window."""
    given = layer.attributes
    auto = {"explicit": "NOTSET", "notset": "NOTSET", "valid": "VALID", "same_upper": "SAME_UPPER",
            "same_lower": "SAME_LOWER"}[given.get("auto_pad", "explicit")]  # fmt: skip
    found: dict[str, Any] = {"auto_pad": auto, "strides": _numbers(given["strides"])}
    if auto == "NOTSET":
        found["pads"] = _numbers(given["pads_begin"]) + _numbers(given["pads_end"])
    if "dilations" in given:
        found["dilations"] = _numbers(given["dilations"])
    return found


def _pool(layer: Layer) -> dict[str, Any]:
    ceil = {"floor": 0, "ceil": 1}[layer.attributes.get("rounding_type", "floor")]
    return {**_window(layer), "kernel_shape": _numbers(layer.attributes["kernel"]), "ceil_mode": ceil}


def _none(layer: Layer) -> dict[str, Any]:
    return {}


def _arithmetic(layer: Layer) -> dict[str, Any]:
    if layer.attributes.get("auto_broadcast", "numpy") not in ("numpy", "none"):
        raise Damaged("broadcasts in a way that no classifier needs")
    return {}


def _truth(text: str) -> int:
    return {"true": 1, "false": 0}[text]


_SIMPLE: Final[Mapping[str, tuple[str, Callable[[Layer], dict[str, Any]]]]] = {
    **{kind: (kind, _arithmetic) for kind in ("Add", "Mod")},
    "Subtract": ("Sub", _arithmetic), "Multiply": ("Mul", _arithmetic), "Divide": ("Div", _arithmetic),
    "Power": ("Pow", _arithmetic), "Maximum": ("Max", _arithmetic), "Minimum": ("Min", _arithmetic),
    "ReLU": ("Relu", _none), "Relu": ("Relu", _none), "Sigmoid": ("Sigmoid", _none), "Tanh": ("Tanh", _none),
    "Gelu": ("Gelu", _none), "Swish": ("Sigmoid", _none), "HSwish": ("HardSwish", _none),
    "HSigmoid": ("HardSigmoid", _none), "HardSigmoid": ("HardSigmoid", _none), "Mish": ("Mish", _none),
    "SoftPlus": ("Softplus", _none), "Clamp": ("Clip", _none), "Elu": ("Elu", _none), "Selu": ("Selu", _none),
    "Exp": ("Exp", _none), "Log": ("Log", _none), "Sqrt": ("Sqrt", _none), "Erf": ("Erf", _none),
    "Abs": ("Abs", _none), "Negative": ("Neg", _none), "SoftMax": ("Softmax", _none), "Softmax": ("Softmax", _none),
    "Convert": ("Cast", _none), "ConvertLike": ("Cast", _none),
    "BatchNormInference": ("BatchNormalization", _none), "MVN": ("Identity", _none),
    "Convolution": ("Conv", _window), "MaxPool": ("MaxPool", _pool), "AvgPool": ("AveragePool", _pool),
    "ReduceMean": ("ReduceMean", lambda layer: {"keepdims": _truth(layer.attributes["keep_dims"])}),
    "ReduceSum": ("ReduceSum", lambda layer: {"keepdims": _truth(layer.attributes["keep_dims"])}),
    "ReduceMax": ("ReduceMax", lambda layer: {"keepdims": _truth(layer.attributes["keep_dims"])}),
    "Reshape": ("Reshape", lambda layer: {"allowzero": 1 - _truth(layer.attributes["special_zero"])}),
    "Concat": ("Concat", lambda layer: {"axis": int(layer.attributes["axis"])}),
    "Squeeze": ("Squeeze", _none), "Unsqueeze": ("Unsqueeze", _none),
}  # fmt: skip
"""The operations that have an operator of ONNX with the same inputs, and how their attributes are read."""


class _Translation:
    """Turns layers into a graph in the form of ONNX."""

    def __init__(self, layers: Sequence[Layer], weights: bytes, texts: Mapping[str, str]) -> None:
        self._layers = layers
        self._content = weights
        self._texts = texts
        self._weights: dict[str, Weight] = {}
        self._nodes: list[Node] = []
        self._stored = 0
        self._shapes = {
            (layer.identity, port): (element, names, shape)
            for layer in layers
            for port, element, names, shape in layer.outputs
        }

    def graph(self) -> Graph:
        inputs, outputs = [], []
        for layer in self._layers:
            if layer.kind == "Parameter":
                inputs.append(self._input(layer))
            elif layer.kind == "Result":
                outputs += self._results(layer)
            elif layer.kind == "Const":
                self._add_weight(layer)
            else:
                self._add_node(layer)
        values = [Value(_name(place), 0, _sizes(shape)) for place, (_, _, shape) in self._shapes.items()]
        return Graph(OPSETS[1], self._texts, inputs, outputs, values, self._weights, self._nodes)

    def _input(self, layer: Layer) -> Value:
        ((_, element, names, shape),) = layer.outputs
        declared = tuple(_numbers(layer.attributes["shape"].replace("?", "-1")))
        if declared != shape or layer.attributes["element_type"] != element.lower():
            raise Damaged("says two things of its input")
        # Its own name, as others know it; the graph knows it by its place.
        self._nodes.append(Node("Identity", [names], [_name((layer.identity, layer.outputs[0][0]))], {}))
        return Value(names, _VALUES.get(element, 0), _sizes(shape))

    def _results(self, layer: Layer) -> list[Value]:
        (source,) = layer.inputs
        element, names, shape = self._shapes[source]
        found = []
        for name in filter(None, names.split(",")):
            self._nodes.append(Node("Identity", [_name(source)], [name], {}))
            found.append(Value(name, _VALUES.get(element, 0), _sizes(shape)))
        return found

    def _add_weight(self, layer: Layer) -> None:
        ((port, _, _, declared),) = layer.outputs
        given = layer.attributes
        shape, start, size = tuple(_numbers(given["shape"])), int(given["offset"]), int(given["size"])
        if given["element_type"] not in _ELEMENTS or min(shape, default=1) < 0 or shape != declared:
            raise Damaged("holds weights of an unknown kind")
        kind = np.dtype(_ELEMENTS[given["element_type"]])
        count = math.prod(shape)
        self._stored += size
        if start < 0 or start + size > len(self._content) or size != count * kind.itemsize:
            raise Damaged("holds weights whose content is not what it says")
        if self._stored > _MOST_REPEATED * len(self._content) + _SLACK:
            raise Damaged("holds the same weights too often")
        known = None
        if count <= MOST_KNOWN and given["element_type"] in ("f32", "i64", "i32"):
            known = np.frombuffer(self._content, kind, count, start).reshape(shape)
            known = known.astype(np.float32 if kind.kind == "f" else np.int64)
        self._weights[_name((layer.identity, port))] = Weight(shape, known)

    def _add_node(self, layer: Layer) -> None:
        if not layer.version.startswith("opset") or layer.kind not in {*_SIMPLE, *_SPECIAL}:
            raise Damaged(f"runs the operation {layer.kind[:60]!r}, which no classifier needs")
        inputs = [_name(source) for source in layer.inputs]
        # Of several outputs (a pooling's places), only the first may be used: the others are made by nothing.
        output = _name((layer.identity, layer.outputs[0][0]))
        if layer.kind in _SIMPLE:
            operator, attributes = _SIMPLE[layer.kind]
            self._nodes.append(Node(operator, inputs, [output], attributes(layer)))
        else:
            _SPECIAL[layer.kind](self, layer, inputs, output)

    def _known(self, name: str) -> list[int]:
        found = self._weights.get(name)
        if found is None or found.value is None or found.value.dtype.kind != "i":
            raise Damaged("gives a tensor whose size is not known before it runs")
        return [int(number) for number in found.value.reshape(-1)]

    def _transpose(self, layer: Layer, inputs: list[str], output: str) -> None:
        self._nodes.append(Node("Transpose", inputs[:1], [output], {"perm": self._known(inputs[1])}))

    def _multiply(self, layer: Layer, inputs: list[str], output: str) -> None:
        turned = {key: _truth(layer.attributes.get(f"transpose_{key}", "false")) for key in "ab"}
        if any(turned.values()):
            attributes = {"transA": turned["a"], "transB": turned["b"]}
            self._nodes.append(Node("Gemm", inputs, [output], attributes))
        else:
            self._nodes.append(Node("MatMul", inputs, [output], {}))

    def _convolve_groups(self, layer: Layer, inputs: list[str], output: str) -> None:
        """Adds a convolution of groups, whose weights have an axis for the groups: ONNX has it in the next axis."""
        _, _, shape = self._shapes[layer.inputs[1]]
        if len(shape) < 4 or min(shape) < 1:
            raise Damaged("its GroupConvolution cannot take what it is given")
        wanted, merged = f"{output}/shape", f"{output}/weights"
        joined = np.array([shape[0] * shape[1], *shape[2:]], np.int64)
        self._weights[wanted] = Weight(joined.shape, joined)
        self._nodes.append(Node("Reshape", [inputs[1], wanted], [merged], {"allowzero": 1}))
        attributes = {**_window(layer), "group": shape[0]}
        self._nodes.append(Node("Conv", [inputs[0], merged], [output], attributes))

    def _pad(self, layer: Layer, inputs: list[str], output: str) -> None:
        pads = np.array(self._known(inputs[1]) + self._known(inputs[2]), np.int64)
        both = f"{output}/pads"
        self._weights[both] = Weight(pads.shape, pads)
        self._nodes.append(Node("Pad", [inputs[0], both], [output], {}))

    def _gather(self, layer: Layer, inputs: list[str], output: str) -> None:
        (axis,) = self._known(inputs[2])
        if layer.attributes.get("batch_dims", "0") != "0":
            raise Damaged("its Gather cannot take what it is given")
        self._nodes.append(Node("Gather", inputs[:2], [output], {"axis": axis}))

    def _slice(self, layer: Layer, inputs: list[str], output: str) -> None:
        # ONNX has the steps after the axes.
        data, starts, ends, steps, *axes = inputs
        self._nodes.append(Node("Slice", [data, starts, ends, axes[0] if axes else "", steps], [output], {}))


_SPECIAL: Final[Mapping[str, Callable[[_Translation, Layer, list[str], str], None]]] = {
    "Transpose": _Translation._transpose,
    "MatMul": _Translation._multiply,
    "GroupConvolution": _Translation._convolve_groups,
    "Pad": _Translation._pad,
    "Gather": _Translation._gather,
    "Slice": _Translation._slice,
}
"""The operations whose inputs or attributes ONNX has in another form."""


def _name(place: tuple[str, str]) -> str:
    return f"{place[0]}:{place[1]}"


def _sizes(shape: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(None if size == -1 else size for size in shape)


def _written(layers: Sequence[Layer]) -> bytes:
    net = ElementTree.Element("net", name="model", version="11")
    listed, edges = ElementTree.SubElement(net, "layers"), ElementTree.SubElement(net, "edges")
    shapes = {(layer.identity, port[0]): port for layer in layers for port in layer.outputs}
    for layer in layers:
        node = ElementTree.SubElement(
            listed, "layer", id=layer.identity, name=layer.name, type=layer.kind, version=layer.version
        )
        if layer.attributes:
            ElementTree.SubElement(node, "data", dict(layer.attributes))
        taken = [str(number) for number in range(len(layer.inputs))]
        if taken:
            side = ElementTree.SubElement(node, "input")
            for port, source in zip(taken, layer.inputs, strict=True):
                _add_port(side, port, *shapes[source][1:])
                ends = {"from-layer": source[0], "from-port": source[1], "to-layer": layer.identity, "to-port": port}
                ElementTree.SubElement(edges, "edge", ends)
        if layer.outputs:
            side = ElementTree.SubElement(node, "output")
            for given in layer.outputs:
                _add_port(side, *given, own=True)
    written: bytes = ElementTree.tostring(net, "utf-8", xml_declaration=True)
    return written


def _add_port(
    side: ElementTree.Element, port: str, precision: str, names: str, shape: Sequence[int], own: bool = False
) -> None:
    found = ElementTree.SubElement(side, "port", id=port, precision=precision)
    if own and names:
        found.set("names", names)
    for size in shape:
        ElementTree.SubElement(found, "dim").text = str(size)
