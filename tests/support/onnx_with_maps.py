"""A small ONNX file of a classifier with the outputs for heat maps, made node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_by_hand import CLASSES, INFO, SIZE, node, numbers

KERNEL = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)


def with_heatmaps(kernel: Any = KERNEL, weights_shape: list[int] | None = None, left_out: str = "") -> bytes:
    """Returns a model whose last feature map is the image in quarter size, and whose dense layer is `kernel`."""
    nodes = [
        node("Cast", ["image"], ["floats"], to=1),
        node("Transpose", ["floats"], ["first"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["first"], ["features"], kernel_shape=[4, 4], strides=[4, 4]),
        node("GlobalAveragePool", ["features"], ["pooled"]),
        node("Reshape", ["pooled", "shape"], ["flat"]),
        node("MatMul", ["flat", "kernel"], ["sums"]),
        node("Mul", ["sums", "small"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
        node("Identity", ["kernel"], ["class_weights"]),
    ]
    weights = [numbers("shape", [-1, 3], "i8"), numbers("kernel", kernel), numbers("small", 0.02)]
    shapes: dict[str, list[Any]] = {
        "logits": ["batch", len(CLASSES)], "probabilities": ["batch", len(CLASSES)],
        "features": ["batch", 3, 4, 4], "class_weights": weights_shape or list(np.shape(kernel)),
    }  # fmt: skip
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
        if name != left_out
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    graph = helper.make_graph(nodes, "g", [image], outputs, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, INFO.to_metadata())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
