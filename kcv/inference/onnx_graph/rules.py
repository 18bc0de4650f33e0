"""Rules of the operators: the sizes of their outputs and their work.

There are three kinds: elementwise operators and reductions; those that only move numbers; sliding windows and matrix
products. Only the work of the last kind exceeds the size of its inputs or outputs; its rules return how many products
they compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kcv.inference.onnx_graph.calls import Call, Result, Rule, Shape, broadcast
from kcv.inference.onnx_graph.reading import MOST_AXES, MOST_KNOWN, Weight


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


def _flatten(call: Call) -> Result:
    shape = call.shape(0)
    axis = call.single("axis", 1)
    axis = axis if axis == len(shape) else call.axis(axis, len(shape))
    return Result([(math.prod(shape[:axis]), math.prod(shape[axis:]))])


def _reshape(call: Call) -> Result:
    tensor, wanted = call.tensor(0), call.numbers(1)
    if wanted is None or len(wanted) > MOST_AXES:
        raise call.wrong()
    try:
        kept = not call.single("allowzero", 0)  # a size of 0 keeps that of the same axis
        sizes = [tensor.shape[axis] if size == 0 and kept else size for axis, size in enumerate(wanted)]
    except IndexError:
        raise call.wrong() from None
    total, rest = math.prod(tensor.shape), math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and rest > 0:
        sizes[sizes.index(-1)] = total // rest
    if any(size < 0 for size in sizes) or math.prod(sizes) != total:
        raise call.wrong()
    value = tensor.value.reshape(sizes) if tensor.value is not None else None
    return Result([tuple(sizes)], value=value)


def _transpose(call: Call) -> Result:
    shape = call.shape(0)
    order = call.listed("perm", tuple(range(len(shape)))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise call.wrong()
    return Result([tuple(shape[axis] for axis in order)])


def _squeeze(call: Call) -> Result:
    tensor, listed = call.tensor(0), call.numbers(1, "axes")
    shape = tensor.shape
    axes = [axis for axis, size in enumerate(shape) if size == 1] if listed is None else call.axes(listed, len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise call.wrong()
    left = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    return Result([left], value=tensor.value.reshape(left) if tensor.value is not None else None)


def _unsqueeze(call: Call) -> Result:
    tensor, listed = call.tensor(0), call.numbers(1, "axes")
    count = len(tensor.shape) + len(listed or [])
    if count > MOST_AXES:
        raise call.wrong()
    axes, sizes = call.axes(listed or [], count), iter(tensor.shape)
    shape = tuple(1 if axis in axes else next(sizes) for axis in range(count))
    return Result([shape], value=tensor.value.reshape(shape) if tensor.value is not None else None)


def _concat(call: Call) -> Result:
    tensors = [call.tensor(place) for place in range(len(call.inputs))]
    first = call.shape(0)
    axis = call.axis(call.single("axis"), len(first))
    for tensor in tensors:
        if len(tensor.shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(tensor.shape, first, strict=True)) if i != axis
        ):
            raise call.wrong()
    total = sum(tensor.shape[axis] for tensor in tensors)
    values = [tensor.value for tensor in tensors if tensor.value is not None]
    value = np.concatenate(values, axis) if len(values) == len(tensors) and total <= MOST_KNOWN else None
    return Result([(*first[:axis], total, *first[axis + 1 :])], value=value)


def _slice(call: Call) -> Result:
    tensor, starts, ends = call.tensor(0), call.numbers(1) or [], call.numbers(2) or []
    axes, steps = call.numbers(3), call.numbers(4) or [1] * len(starts)
    axes = call.axes(list(range(len(starts))) if axes is None else axes, len(tensor.shape))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.wrong()
    cut = [slice(None)] * len(tensor.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # A very negative end of a backward slice means "up to the start"; Python would count it from the end.
        cut[axis] = slice(start, None if step < 0 and end < -tensor.shape[axis] else end, step)
    shape = tuple(len(range(*piece.indices(size))) for piece, size in zip(cut, tensor.shape, strict=True))
    return Result([shape], value=tensor.value[tuple(cut)] if tensor.value is not None else None)


def _split(call: Call) -> Result:
    shape, count = call.shape(0), len(call.node.outputs)
    axis = call.axis(call.single("axis", 0), len(shape))
    parts = call.numbers(1, "split")
    if parts is None:
        part = -(-shape[axis] // count)
        parts = [part] * (count - 1) + [shape[axis] - part * (count - 1)]
    if len(parts) != count or any(part < 0 for part in parts) or sum(parts) != shape[axis]:
        raise call.wrong()
    return Result([(*shape[:axis], part, *shape[axis + 1 :]) for part in parts])


def _gather(call: Call) -> Result:
    tensor, places = call.tensor(0), call.tensor(1)
    axis = call.axis(call.single("axis", 0), len(tensor.shape))
    shape = (*tensor.shape[:axis], *places.shape, *tensor.shape[axis + 1 :])
    value = None
    if tensor.value is not None and places.value is not None and math.prod(shape) <= MOST_KNOWN:
        try:
            value = np.take(tensor.value, places.value, axis)
        except IndexError:
            raise call.wrong() from None
    return Result([shape], value=value)


def _expand(call: Call) -> Result:
    wanted = call.numbers(1)
    if wanted is None or len(wanted) > MOST_AXES or any(size < 0 for size in wanted):
        raise call.wrong()
    return Result([broadcast(call, call.shape(0), tuple(wanted))])


def _pad(call: Call) -> Result:
    shape, pads = call.shape(0), call.numbers(1) or []
    listed = call.numbers(3)
    axes = call.axes(list(range(len(shape))) if listed is None else listed, len(shape))
    if len(pads) != 2 * len(axes):
        raise call.wrong()
    sizes = list(shape)
    for place, axis in enumerate(axes):
        sizes[axis] += pads[place] + pads[place + len(axes)]
    return Result([tuple(sizes)])


MOVING_RULES: Final[dict[str, Rule]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Expand": _expand,
    "Pad": _pad,
}
"""The work of each is about the size of its inputs or outputs."""


def _geometry(call: Call, sizes: Shape, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Returns strides, dilations and the total padding of both sides, one entry per axis."""
    axes = len(sizes)
    strides, dilations = call.listed("strides", [1] * axes), call.listed("dilations", [1] * axes)
    pads, auto = call.listed("pads", [0] * 2 * axes), call.word("auto_pad", "NOTSET")
    sound = len(kernel) == len(strides) == len(dilations) == axes and len(pads) == 2 * axes
    if not sound or min([*kernel, *strides, *dilations], default=0) < 1 or min(pads) < 0:
        raise call.wrong()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        windows = zip(sizes, kernel, strides, dilations, strict=True)
        return strides, dilations, [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n) for n, k, s, d in windows]
    if auto not in ("NOTSET", "VALID"):
        raise call.wrong()
    together = [a + b for a, b in zip(pads[:axes], pads[axes:], strict=True)]
    return strides, dilations, together if auto == "NOTSET" else [0] * axes


def _slide(call: Call, sizes: Shape, kernel: Sequence[int], ceil: bool = False) -> list[int]:
    """Returns the number of window positions per axis."""
    strides, dilations, pads = _geometry(call, sizes, kernel)
    rounded = [s - 1 if ceil else 0 for s in strides]
    windows = zip(sizes, kernel, strides, dilations, pads, rounded, strict=True)
    return [(n + p - (k - 1) * d - 1 + more) // s + 1 for n, k, s, d, p, more in windows]


def _convolve(call: Call) -> Result:
    image, weights = call.shape(0), call.shape(1)
    group = call.single("group", 1)
    if len(image) < 3 or len(weights) != len(image) or group < 1 or weights[1] * group != image[1]:
        raise call.wrong()
    kernel = weights[2:]
    if tuple(call.listed("kernel_shape", kernel)) != kernel or weights[0] % group:
        raise call.wrong()
    shape = (image[0], weights[0], *_slide(call, image[2:], kernel))
    return Result([shape], products=math.prod(shape) * math.prod(weights[1:]))


def _convolve_back(call: Call) -> Result:
    image, weights = call.shape(0), call.shape(1)
    group = call.single("group", 1)
    if len(image) < 3 or len(weights) != len(image) or group < 1 or weights[0] != image[1]:
        raise call.wrong()
    kernel, axes = weights[2:], len(image) - 2
    if tuple(call.listed("kernel_shape", kernel)) != kernel or "output_shape" in call.node.attributes:
        raise call.wrong()
    strides, dilations, pads = _geometry(call, image[2:], kernel)
    more = call.listed("output_padding", [0] * axes)
    if len(more) != axes or min(more) < 0 or call.word("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise call.wrong()
    windows = zip(image[2:], kernel, strides, dilations, pads, more, strict=True)
    sizes = [s * (n - 1) + m + (k - 1) * d + 1 - p for n, k, s, d, p, m in windows]
    shape = (image[0], weights[1] * group, *sizes)
    return Result([shape], products=math.prod(image) * math.prod(weights[1:]))


def _pool(call: Call) -> Result:
    image, kernel = call.shape(0), call.listed("kernel_shape")
    if len(image) < 3:
        raise call.wrong()
    shape = (*image[:2], *_slide(call, image[2:], kernel, bool(call.single("ceil_mode", 0))))
    return Result([shape], products=math.prod(shape) * math.prod(kernel))


def _multiply(call: Call) -> Result:
    left, right = call.shape(0), call.shape(1)
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise call.wrong()
    shape = (*broadcast(call, left[:-2], right[:-2]), left[-2], right[-1])
    return Result([shape], products=math.prod(shape) * left[-1])


def _gemm(call: Call) -> Result:
    left, right = call.shape(0, 2), call.shape(1, 2)
    left = left[::-1] if call.single("transA", 0) else left
    right = right[::-1] if call.single("transB", 0) else right
    if left[1] != right[0]:
        raise call.wrong()
    shape = (left[0], right[1])
    if len(call.inputs) > 2 and call.inputs[2] is not None and broadcast(call, shape, call.inputs[2].shape) != shape:
        raise call.wrong()
    return Result([shape], products=math.prod(shape) * left[1])


def _resize(call: Call) -> Result:
    shape, sizes = call.shape(0), call.numbers(3)
    if sizes is None:
        factors = call.tensor(2).value
        if factors is None or factors.shape != (len(shape),) or not ((factors > 0) & (factors < 2**10)).all():
            raise call.wrong()
        sizes = [math.floor(size * float(factor)) for size, factor in zip(shape, factors, strict=True)]
    if len(sizes) != len(shape) or "axes" in call.node.attributes:
        raise call.wrong()
    return Result([tuple(sizes)], products=16 * math.prod(sizes))  # bicubic interpolation reads 16 pixels


WINDOW_RULES: Final[dict[str, Rule]] = {
    "Conv": _convolve,
    "ConvTranspose": _convolve_back,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "MatMul": _multiply,
    "Gemm": _gemm,
    "Resize": _resize,
}
"""Each rule returns its number of products."""
