"""Rewrites of graphs: the same function, with fewer or better operators, and nothing where it would not be the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kcv.exporting.simplify import simplify

Arrays = dict[str, np.ndarray]


def graph(nodes: list[onnx.NodeProto], weights: Arrays, shape: list[object], kind: int) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return y


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)


def front(*, read_twice: bool = False) -> tuple[onnx.ModelProto, np.ndarray]:
    """Bytes, channels last, to a padded convolution of normalised images."""
    weights = {
        "scale": np.float32(1 / 255),
        "mean": np.array([0.5, 0.4, 0.3], np.float32),
        "std": np.array([0.2, 0.3, 0.4], np.float32),
        "kernel": KERNEL,
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["s"], name="rescale/Mul"),
        helper.make_node("Sub", ["s", "mean"], ["c"], name="normalise/Sub"),
        helper.make_node("Div", ["c", "std"], ["n"], name="normalise/Div"),
        helper.make_node("Transpose", ["n"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "kernel"], ["y"], pads=[1, 1, 1, 1]),
    ]
    if read_twice:
        nodes[-1].output[0] = "k"
        nodes += [
            helper.make_node("ReduceMean", ["t"], ["m"], keepdims=1),
            helper.make_node("Add", ["k", "m"], ["y"]),
        ]
    x = RNG.integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    return graph(nodes, weights, ["n", 8, 9, 3], TensorProto.UINT8), x


def test_bytes_are_turned_and_the_kernel_rescales() -> None:
    model, x = front()
    before = run(model, x)
    simplify(model)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert kinds(model) == ["Transpose", "Cast", "Sub", "Conv"]
    assert len(model.graph.initializer) == 2
    np.testing.assert_allclose(run(model, x), before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_pixels_that_others_read_too_stay_normalised() -> None:
    model, x = front(read_twice=True)
    before = run(model, x)
    simplify(model)
    assert {"Mul", "Div"} <= set(kinds(model))
    np.testing.assert_allclose(run(model, x), before, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("maker", "pad_value", "folds"),
    [
        (helper.make_node("Relu", ["x"], ["r"]), 0.0, True),
        (helper.make_node("Clip", ["x", "low"], ["r"]), 0.0, True),
        (helper.make_node("Tanh", ["x"], ["r"]), 0.0, False),
        (helper.make_node("Relu", ["x"], ["r"]), 1.0, False),
        (helper.make_node("Clip", ["x", "negative"], ["r"]), 0.0, False),
    ],
    ids=["relu", "relu6", "may be negative", "padded by ones", "cut below zero"],
)
def test_zeros_around_what_is_never_negative_are_the_poolings_own(
    maker: onnx.NodeProto, pad_value: float, folds: bool
) -> None:
    weights = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "value": np.float32(pad_value),
        "low": np.float32(0),
        "negative": np.float32(-1),
    }
    nodes = [
        maker,
        helper.make_node("Pad", ["r", "pads", "value"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    model = graph(nodes, weights, ["n", 2, 8, 8], TensorProto.FLOAT)
    x = RNG.normal(size=(2, 2, 8, 8)).astype(np.float32) - 1
    before = run(model, x)
    simplify(model)
    assert ("Pad" not in kinds(model)) == folds
    np.testing.assert_array_equal(run(model, x), before)


@pytest.mark.parametrize(
    ("keepdims", "reshape", "expected"),
    [
        (1, None, ["GlobalAveragePool"]),
        (0, None, ["GlobalAveragePool", "Flatten"]),
        (0, [-1, 2, 1, 1], ["GlobalAveragePool", "Relu"]),
        (0, [2, -1], ["GlobalAveragePool", "Flatten", "Reshape", "Relu"]),
    ],
)
def test_means_over_an_image_are_global_poolings(keepdims: int, reshape: list[int] | None, expected: list[str]) -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)]
    weights: Arrays = {"axes": np.array([2, 3])}
    if reshape is not None:
        nodes[0].output[0] = "m"
        nodes += [helper.make_node("Reshape", ["m", "shape"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
        weights["shape"] = np.array(reshape)
    model = graph(nodes, weights, ["n", 2, 6, 5], TensorProto.FLOAT)
    x = RNG.normal(size=(3, 2, 6, 5)).astype(np.float32)
    before = run(model, x)
    simplify(model)
    assert kinds(model) == expected
    np.testing.assert_allclose(run(model, x), before, atol=1e-6)


def test_means_over_other_axes_stay() -> None:
    model = graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"])],
        {"axes": np.array([1])},
        ["n", 2, 6, 5],
        TensorProto.FLOAT,
    )
    simplify(model)
    assert kinds(model) == ["ReduceMean"]
