"""Rules of the operators whose work exceeds the size of their outputs: sliding windows and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from kcv.inference.onnx_graph.calls import Call, Result, Rule, Shape, broadcast


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
