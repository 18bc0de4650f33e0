"""Counts the floating-point operations of a step, and measures the machine's matrix rate for comparison."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_SIDES = {"cpu": (1024, 2048), "mps": (2048, 4096), "cuda": (4096, 8192)}
_HEIGHT = 32
"""Of the images that stand for a matrix; their pixels are its rows."""
_FORMATS = {"float32": torch.float32, "mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def matrix_rate(device: str, policy: str, repeats: int = 10) -> float:
    """Measures the rate of square matrix products in a policy's compute dtype.

    Returns:
        FLOP/s, the median of the best size and way. A measured rate, not the data sheet's.
    """
    best = 0.0
    for side in _SIDES[device]:
        for product in _products(device, _FORMATS[policy], side):
            seconds = []
            for _ in range(repeats + 2):
                began = time.perf_counter()
                c = product()
                c[(0,) * c.ndim].item()  # waits for the device
                seconds.append(time.perf_counter() - began)
            best = max(best, 2 * side**3 / statistics.median(seconds[2:]))
    return best


def _products(device: str, dtype: torch.dtype, side: int) -> Iterator[Callable[[], Tensor]]:
    """Yields the ways to compute the product of two matrices [side, side]."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    yield lambda: a @ b
    if device == "cpu":
        # As a convolution of one pixel: oneDNN computes it, and on AMD's CPUs with AVX512 twice as fast as MKL does.
        images = a.t().reshape(1, side, _HEIGHT, -1).contiguous(memory_format=torch.channels_last)
        kernel = b.t().reshape(side, side, 1, 1).contiguous(memory_format=torch.channels_last)
        yield lambda: F.conv2d(images, kernel)


def flops_of_step(network: nn.Module, images: Tensor) -> int:
    """Counts the floating-point operations of a training step's convolutions and matrix products.

    It is three times the count of the forward pass, from torch's counter: the gradients of inputs and of weights cost
    the same again each. (The counter's own number for a backward pass ignores the groups of depthwise convolutions.)
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(images)
    return 3 * int(counter.get_total_flops())
