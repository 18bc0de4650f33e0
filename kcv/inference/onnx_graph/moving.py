"""Rules of the operators that only move numbers: reshape, reorder, join and split."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from kcv.inference.onnx_graph.calls import Call, Result, Rule, broadcast
from kcv.inference.onnx_graph.reading import MOST_AXES, MOST_KNOWN


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
