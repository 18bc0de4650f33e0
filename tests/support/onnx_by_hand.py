"""Small ONNX files of classifiers, made node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kcv.inference.onnx_model import OnnxInfo

SIZE, CLASSES = 16, ("a", "b", "c")
INFO = OnnxInfo(CLASSES, SIZE, "squash", "float32", "net", "photos", "abc", "0")

node = helper.make_node
Proto = Any


def numbers(name: str, values: Any, kind: str = "f4") -> Proto:
    return numpy_helper.from_array(np.array(values, kind), name)


HEAD = [
    node("Cast", ["image"], ["floats"], to=1),
    node("ReduceMean", ["floats", "axes"], ["pooled"], keepdims=0),
    node("MatMul", ["pooled", "kernel"], ["first"]),
]
WEIGHTS = [numbers("axes", [1, 2], "i8"), numbers("kernel", np.full((3, 3), 0.001))]


def tail(last: str) -> list[Proto]:
    return [node("Identity", [last], ["logits"]), node("Softmax", [last], ["probabilities"], axis=1)]


def crafted(nodes: Sequence[Proto], weights: Sequence[Proto] = (), opset: int = 20, **more: Any) -> Proto:
    """Returns a model of some nodes after `HEAD`, which gives `first`, and weights beside its own."""
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in ("logits", "probabilities")]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    graph = helper.make_graph([*HEAD, *nodes], "g", [image], outputs, initializer=[*WEIGHTS, *weights])
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", ())]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)
    helper.set_model_props(model, INFO.to_metadata())
    return model


def network() -> bytes:
    """Returns a small network with all that an exported one has, int8 as well."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Transpose", ["image"], ["x1"], perm=[0, 3, 1, 2]),
        node("Cast", ["x1"], ["x2"], to=1),
        node("Sub", ["x2", "mean"], ["x3"]),
        node("DequantizeLinear", ["k8", "scale", "zero8"], ["k"], axis=0),
        node("Conv", ["x3", "k", "bias"], ["x4"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2], group=1),
        node("Clip", ["x4", "low", "high"], ["x5"]),
        node("QuantizeLinear", ["x5", "scale1", "zero"], ["x6"]),
        node("DequantizeLinear", ["x6", "scale1", "zero"], ["x7"]),
        node("MaxPool", ["x7"], ["x8"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["x8", "shape"], ["x9"]),
        node("Gemm", ["x9", "dense"], ["x10"], transB=1),
        node("Add", ["x10", "first"], ["x11"]),
        node("Sigmoid", ["x11"], ["x12"]),
        *tail("x12"),
    ]
    weights = [
        numbers("mean", rng.random((3, 1, 1))), numbers("k8", rng.integers(-9, 9, (4, 3, 3, 3)), "i1"),
        numbers("scale", np.full(4, 0.1)), numbers("zero8", np.zeros(4), "i1"), numbers("bias", np.zeros(4)),
        numbers("low", 0.0), numbers("high", 6.0), numbers("scale1", 0.05), numbers("zero", 3, "u1"),
        numbers("shape", [-1, 64], "i8"), numbers("dense", rng.random((3, 64))),
    ]  # fmt: skip
    return bytes(crafted(nodes, weights).SerializeToString())
