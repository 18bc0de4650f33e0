"""Small ONNX files of classifiers, made node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kcv.onnx_model import OnnxInfo

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
