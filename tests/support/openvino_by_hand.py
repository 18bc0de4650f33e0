"""A small pair of OpenVINO files, written layer by layer, without OpenVINO."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from onnx_by_hand import INFO, SIZE

from kcv.inference.openvino_graph import WEIGHTS_DIGEST

Shape = Sequence[int]
IMAGE: Shape = (-1, SIZE, SIZE, 3)


class Pair:
    """A graph that grows layer by layer, and its weights.

    Attributes:
        net: the XML.
        weights: the content of the `.bin` file.
    """

    def __init__(self) -> None:
        self.net = ElementTree.Element("net", name="hand", version="11")
        self._layers = ElementTree.SubElement(self.net, "layers")
        self._edges = ElementTree.SubElement(self.net, "edges")
        self._shapes: dict[str, Shape] = {}
        self.weights = b""

    def add(
        self, kind: str, inputs: Iterable[str] = (), gives: Shape | None = None, names: str = "",
        precision: str = "FP32", version: str = "opset1", **data: Any,
    ) -> str:  # fmt: skip
        """Adds a layer with one output of the shape `gives`, and returns its number."""
        number = str(len(self._layers))
        layer = ElementTree.SubElement(self._layers, "layer", id=number, name=f"l{number}", type=kind, version=version)
        if data:
            ElementTree.SubElement(layer, "data", {key: str(value) for key, value in data.items()})
        sources = list(inputs)
        if sources:
            side = ElementTree.SubElement(layer, "input")
            for port, source in enumerate(sources):
                self._port(side, port, "FP32", self._shapes[source])
                ends = {"from-layer": source, "from-port": "9", "to-layer": number, "to-port": str(port)}
                ElementTree.SubElement(self._edges, "edge", ends)
        if gives is not None:
            port = self._port(ElementTree.SubElement(layer, "output"), 9, precision, gives)
            if names:
                port.set("names", names)
            self._shapes[number] = gives
        return number

    @staticmethod
    def _port(side: ElementTree.Element, number: int, precision: str, shape: Shape) -> ElementTree.Element:
        port = ElementTree.SubElement(side, "port", id=str(number), precision=precision)
        for size in shape:
            ElementTree.SubElement(port, "dim").text = str(size)
        return port

    def const(self, values: Any, kind: str = "f4") -> str:
        """Adds weights."""
        array = np.array(values, f"<{kind}")
        element = {"f4": "f32", "i8": "i64"}[kind]
        precision = {"f4": "FP32", "i8": "I64"}[kind]
        shape = ", ".join(map(str, array.shape))
        data = {"element_type": element, "shape": shape, "offset": len(self.weights), "size": array.nbytes}
        self.weights += array.tobytes()
        return self.add("Const", (), array.shape, precision=precision, **data)

    def files(self, **texts: str) -> tuple[bytes, bytes]:
        """Returns both files, with the description of `onnx_by_hand`."""
        described = {**INFO.to_metadata(), WEIGHTS_DIGEST: hashlib.sha256(self.weights).hexdigest(), **texts}
        entry = ElementTree.SubElement(ElementTree.SubElement(self.net, "rt_info"), "kcv")
        for key, text in described.items():
            ElementTree.SubElement(entry, key, value=text)
        return bytes(ElementTree.tostring(self.net)), self.weights


def network(window: Mapping[str, Any] | None = None) -> Pair:
    """Returns a small network with all kinds of layers: windows, groups, pooling, means, matrices."""
    rng = np.random.default_rng(0)
    pair = Pair()
    plain = {"strides": "2, 2", "dilations": "1, 1", "pads_begin": "1, 1", "pads_end": "1, 1", "auto_pad": "explicit"}
    half = SIZE // 2
    image = pair.add("Parameter", (), IMAGE, "image", "U8", shape=f"?,{SIZE},{SIZE},3", element_type="u8")
    floats = pair.add("Convert", [image], IMAGE, destination_type="f32")
    first = pair.add("Transpose", [floats, pair.const([0, 3, 1, 2], "i8")], (-1, 3, SIZE, SIZE))
    kernel = pair.const(rng.normal(size=(4, 3, 3, 3)) / 500)
    found = pair.add("Convolution", [first, kernel], (-1, 4, half, half), **{**plain, **(window or {})})
    bias = pair.const(rng.normal(size=(1, 4, 1, 1)))
    found = pair.add("Add", [found, bias], (-1, 4, half, half), auto_broadcast="numpy")
    found = pair.add("ReLU", [found], (-1, 4, half, half))
    groups = pair.const(rng.normal(size=(4, 1, 1, 3, 3)))
    found = pair.add(
        "GroupConvolution", [found, groups], (-1, 4, half, half), **{**plain, "strides": "1, 1"}
    )  # fmt: skip
    pool = {**plain, "pads_begin": "0, 0", "pads_end": "0, 0", "kernel": "2, 2", "rounding_type": "floor"}
    quarter = (-1, 4, half // 2, half // 2)
    found = pair.add("MaxPool", [found], quarter, version="opset8", axis=0, index_element_type="i64", **pool)
    axes = pair.const([2, 3], "i8")
    found = pair.add("ReduceMean", [found, axes], (-1, 4), keep_dims="false")
    dense = pair.const(rng.normal(size=(3, 4)))
    logits = pair.add("MatMul", [found, dense], (-1, 3), "logits", transpose_a="false", transpose_b="true")
    probabilities = pair.add("SoftMax", [logits], (-1, 3), "probabilities", version="opset8", axis=1)
    pair.add("Result", [logits])
    pair.add("Result", [probabilities])
    return pair


def changed(content: bytes, change: Any) -> bytes:
    """Returns XML after a change of its tree."""
    root = ElementTree.fromstring(content)
    change(root)
    return bytes(ElementTree.tostring(root))
