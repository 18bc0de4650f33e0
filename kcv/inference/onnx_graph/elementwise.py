"""Rules of the elementwise operators and the reductions."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from kcv.inference.onnx_graph.calls import Call, Result, Rule, broadcast
from kcv.inference.onnx_graph.reading import MOST_KNOWN, Weight


def _same(call: Call) -> Result:
    first = call.tensor(0)
    for extra in call.inputs[1:]:
        # Inputs with one axis are parameters per channel, and channels are not always the last axis.
        if extra is not None and len(extra.shape) > 1 and broadcast(call, first.shape, extra.shape) != first.shape:
            raise call.wrong()
    whole = first.value is not None and first.value.dtype.kind == "i"
    return Result([first.shape], value=first.value if call.node.operator in ("Identity", "Cast") and whole else None)


_ARITHMETIC: Final[dict[str, Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide}


def _together(call: Call) -> Result:
    tensors = [call.tensor(place) for place in range(len(call.inputs))]
    shape = broadcast(call, *(tensor.shape for tensor in tensors))
    value, compute = None, _ARITHMETIC.get(call.node.operator)
    known = [tensor.value for tensor in tensors if tensor.value is not None and tensor.value.dtype.kind == "i"]
    if compute is not None and len(known) == len(tensors) == 2 and math.prod(shape) <= MOST_KNOWN:
        with np.errstate(all="ignore"):  # an overflowed number is not a valid size, and is refused later
            value = compute(*known)
    return Result([shape], value=value)


def _reduce(call: Call) -> Result:
    shape = call.shape(0)
    listed = call.numbers(1, "axes")
    if not listed and call.single("noop_with_empty_axes", 0):
        return Result([shape])
    axes = call.axes(listed, len(shape)) if listed else list(range(len(shape)))
    if call.single("keepdims", 1):
        return Result([tuple(1 if axis in axes else size for axis, size in enumerate(shape))])
    return Result([tuple(size for axis, size in enumerate(shape) if axis not in axes)])


def _pool_whole(call: Call) -> Result:
    shape = call.shape(0)
    return Result([shape[:2] + (1,) * (len(shape) - 2)])


def _shape(call: Call) -> Result:
    shape = call.shape(0)
    start, end = call.single("start", 0), call.single("end", len(shape))
    found = shape[slice(start, end)]
    return Result([(len(found),)], value=np.array(found, np.int64))


def _constant(call: Call) -> Result:
    attributes = call.node.attributes
    if call.inputs or len(attributes) != 1:
        raise call.wrong()
    ((name, found),) = attributes.items()
    if name == "value" and isinstance(found, Weight):
        return Result([found.shape], value=found.value)
    if name == "value_int" and isinstance(found, int):
        return Result([()], value=np.array(found, np.int64))
    if name == "value_ints" and isinstance(found, list) and len(found) <= MOST_KNOWN:
        return Result([(len(found),)], value=np.array(found, np.int64))
    if name == "value_float" and isinstance(found, float):
        return Result([()])
    raise call.wrong()


_ONE_TO_ONE: Final = (
    "Identity", "Cast", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Gelu", "Mish",
    "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Softplus", "Softsign", "Softmax", "LogSoftmax", "Erf", "Exp",
    "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "Not", "Clip", "Dropout",
    "LpNormalization", "QuantizeLinear", "DequantizeLinear", "BatchNormalization", "LayerNormalization",
    "InstanceNormalization", "GroupNormalization", "LRN", "PRelu", "IsNaN", "IsInf",
)  # fmt: skip
_BROADCAST: Final = (
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Mod", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "And", "Or", "Xor", "Where",
)  # fmt: skip
_SUMS: Final = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip

ELEMENTWISE_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_ONE_TO_ONE, _same),
    **dict.fromkeys(_BROADCAST, _together),
    **dict.fromkeys(_SUMS, _reduce),
    "GlobalAveragePool": _pool_whole,
    "GlobalMaxPool": _pool_whole,
    "Shape": _shape,
    "Constant": _constant,
}
"""The work of each is about the size of its inputs or outputs."""
