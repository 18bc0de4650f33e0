"""Where the time of a training step goes: its operations by kind, as torch's profiler counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from kcv.benchmark.candidates import StepFunction

STEPS = 5
"""Steps that are profiled; as many before them are not."""

_ROUNDS = 6
"""Profiles that are made on a CPU, of which the shortest counts: what the profiler itself keeps lies between the blocks
that a step frees, so that at first these grow, and are filled page by page, which can double the time of a step."""

_BACKWARD = "Backward"
_OWN = {
    "_Average": "pooling",
    "_DepthwiseInC": "depthwise convolutions",
    "_DepthwiseSwapped": "depthwise convolutions",
    "_Normalize": "normalisation",
    "_Windows": "convolutions",
}
"""Operations of kcv, with their kinds. The way back of each has its name, and `_BACKWARD` behind it."""

_KINDS: Mapping[str, tuple[str, ...]] = {
    "normalisation": ("batch_norm", "layer_norm", "group_norm"),
    "activations": (
        "relu", "silu", "gelu", "sigmoid", "hardswish", "hardsigmoid", "hardtanh", "threshold", "softmax", "tanh",
        "clamp",
    ),
    "pooling": ("pool", "mean"),
    "optimizer": ("_fused_", "_foreach_", "lerp"),
    "copies": ("copy_", "clone", "cat", "pad", "fill_", "zero_", "contiguous", "_to_copy", "index"),
}  # fmt: skip
"""Parts of the names of torch's operations, by kind; the first kind that fits counts."""

_PRODUCTS = ("addmm", "bmm", "mm", "linear", "baddbmm", "matmul")
_ARITHMETIC = ("add", "sub", "mul", "div", "sum", "addcmul", "eq", "argmax", "sqrt", "rsqrt", "pow", "neg")


def profiled(step: StepFunction, device: str) -> list[dict[str, Any]]:
    """Profiles a training step.

    Args:
        step: one training step.
        device: where it computes. On CUDA the time is that of the kernels, on CPUs that of the operations.

    Returns:
        One row per kind of operation, the most expensive first: `kind`, `milliseconds` a step, and `fraction` of all.
    """
    for _ in range(STEPS):
        step()
    rounds = [_round(step, device) for _ in range(1 if device == "cuda" else _ROUNDS)]
    return min(rounds, key=lambda rows: sum(row["milliseconds"] for row in rows))


def _round(step: StepFunction, device: str) -> list[dict[str, Any]]:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, record_shapes=True, acc_events=True) as found:
        for _ in range(STEPS):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
    return by_kind(found.key_averages(group_by_input_shape=True), device)


def by_kind(events: Iterable[FunctionEventAvg], device: str) -> list[dict[str, Any]]:
    """Adds up the time of operations by kind; see `profiled`."""
    microseconds: Counter[str] = Counter()
    for event in events:
        name, shapes = event.key or "", event.input_shapes or ()
        # On CUDA, kernels stand beside the operations that start them, with the same time.
        if device != "cuda":
            microseconds[kind_of(name, shapes)] += event.self_cpu_time_total
        elif name.startswith("aten::"):
            microseconds[kind_of(name, shapes)] += event.self_device_time_total
    total = sum(microseconds.values())
    return [
        {"kind": kind, "milliseconds": time / STEPS / 1e3, "fraction": time / total}
        for kind, time in microseconds.most_common()
        if time > 0
    ]


def kind_of(operation: str, shapes: Sequence[Sequence[int]]) -> str:
    """Returns the kind of an operation.

    Args:
        operation: its name, such as `aten::convolution_backward`.
        shapes: of its inputs; a convolution whose kernel has one input channel is depthwise.

    Example:
        >>> kind_of("aten::mkldnn_convolution", [[2, 8, 6, 6], [8, 1, 3, 3]])
        'depthwise convolutions'
    """
    if not operation.startswith("aten::"):
        own = _OWN.get(operation.removesuffix(_BACKWARD), "Python and autograd")
        return f"{own}, backward" if "convolutions" in own and operation.endswith(_BACKWARD) else own
    name = operation.removeprefix("aten::")
    if "conv" in name:
        backward = "backward" in name
        kernel = next((shape for shape in shapes[2 if backward else 1 :] if len(shape) == 4), None)
        depthwise = kernel is not None and kernel[1] == 1 and kernel[0] > 1
        return f"{'depthwise ' if depthwise else ''}convolutions{', backward' if backward else ''}"
    for kind, parts in _KINDS.items():
        if any(part in name for part in parts):
            return kind
    if name in _PRODUCTS:
        return "matrix products"
    return "arithmetic" if name.rstrip("_") in _ARITHMETIC else "other operations"
