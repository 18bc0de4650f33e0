"""Batch normalisation together with the activation behind it, by compiled kernels, on CPUs.

torch reads and writes the images five times on the way forward and six times back; here it is three and five times, and
only the input is kept for the way back: the activation's own input is computed again from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kcv.native.kernels import Kernels


class _Normalize(torch.autograd.Function):
    """See `normalize`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, activation: str, kernels: Kernels
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = kernels.normalize(x, gamma, beta, epsilon, activation)
        ctx.save_for_backward(x, found.mean, found.inverse, found.scale, beta)
        ctx.activation, ctx.kernels = activation, kernels
        ctx.mark_non_differentiable(found.mean, found.variance)
        return found.y, found.mean, found.variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x, of_gamma, of_beta = ctx.kernels.normalize_gradient(gradient, *ctx.saved_tensors, ctx.activation)
        return of_x, of_gamma, of_beta, None, None, None


def takes(x: Tensor) -> bool:
    """Whether the kernels can normalise a batch of images: float32, on the CPU, in channels-last memory."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


def normalize(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, activation: str, kernels: Kernels
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises with the statistics of the batch, then applies an activation.

    Args:
        x: images that `takes` accepts, [n, c, h, w].
        gamma: [c]; None: 1.
        beta: [c]; None: 0.
        epsilon: added to the variance.
        activation: one of `kcv.native.kernels.ACTIVATIONS`.
        kernels: the compiled kernels.

    Returns:
        The output, and mean and unbiased variance of the batch, [c] each, which have no gradient.
    """
    gamma = torch.ones(x.shape[1]) if gamma is None else gamma
    beta = torch.zeros(x.shape[1]) if beta is None else beta
    result: tuple[Tensor, Tensor, Tensor] = _Normalize.apply(x, gamma, beta, epsilon, activation, kernels)
    return result
