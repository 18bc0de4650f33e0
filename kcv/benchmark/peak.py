"""Counts the floating-point operations of a step, and measures the machine's matrix rate for comparison."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_SIDES = {"cpu": (1024, 2048), "mps": (2048, 4096), "cuda": (4096, 8192)}
_FORMATS = {"float32": torch.float32, "mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def matrix_rate(device: str, policy: str, repeats: int = 10) -> float:
    """Measures the rate of square matrix products in a policy's compute dtype.

    Returns:
        FLOP/s, the median at the better size. A measured rate, not the data sheet's.
    """
    best = 0.0
    for side in _SIDES[device]:
        a, b = (torch.randn(side, side, device=device).to(_FORMATS[policy]) for _ in range(2))
        seconds = []
        for _ in range(repeats + 2):
            began = time.perf_counter()
            c = a @ b
            c[0, 0].item()  # waits for the device
            seconds.append(time.perf_counter() - began)
        best = max(best, 2 * side**3 / statistics.median(seconds[2:]))
    return best


def flops_of_step(network: nn.Module, images: Tensor) -> int:
    """Counts the floating-point operations of a training step's convolutions and matrix products.

    It is three times the count of the forward pass, from torch's counter: the gradients of inputs and of weights cost
    the same again each. (The counter's own number for a backward pass ignores the groups of depthwise convolutions.)
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(images)
    return 3 * int(counter.get_total_flops())
