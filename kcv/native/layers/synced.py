"""Batch normalisation by the statistics of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

AddUp = Callable[[Tensor], Tensor]
"""Replaces a tensor by its sum over all processes."""


class SyncedBatchNorm(torch.autograd.Function):
    """Normalises by mean and variance of the whole batch; its gradient is that of the whole batch, too.

    torch's SyncBatchNorm has no kernels for CPUs. This one runs the fused kernels of inference, forward and backward,
    with the common statistics, and adds what the gradient owes to them: with `s1` and `s2` the sums over all
    images of dy and of dy times the normalised input, dx = gamma / std * (dy - s1 / n - normalised * s2 / n)
    (Ioffe & Szegedy 2015, arXiv 1502.03167, section 3).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, add_up: AddUp
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the output, and mean and biased variance of the whole batch, [c]."""
        others = [axis for axis in range(x.dim()) if axis != 1]
        local_count = x.numel() // x.shape[1]
        wide = torch.promote_types(x.dtype, torch.float32)
        variance, mean = torch.var_mean(x.to(wide), others, correction=0)
        # In double precision the squares' sum loses nothing that a float32 variance could show.
        mean, variance = mean.double(), variance.double()
        ones = torch.ones_like(mean[:1])
        sums = torch.cat([mean * local_count, (variance + mean.square()) * local_count, ones * local_count])
        sums = add_up(sums)
        count = sums[-1]
        mean, squares = (sums[:-1] / count).chunk(2)
        variance = (squares - mean.square()).clamp_min(0.0)
        mean, variance = mean.to(wide), variance.to(wide)
        y = torch.batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon, True)
        ctx.save_for_backward(x, gamma, mean, variance, count)
        ctx.epsilon, ctx.add_up = epsilon, add_up
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *unused: Any) -> tuple[Any, ...]:
        """Returns the gradients of input, gamma and beta; those of the two are of this process's part alone."""
        x, gamma, mean, variance, count = ctx.saved_tensors
        scale = torch.ones_like(mean) if gamma is None else gamma
        dx, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            dy, x, scale, mean, variance, None, None, False, ctx.epsilon, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            s1, s2 = (ctx.add_up(torch.cat([dbeta, dgamma]).double()) / count).to(mean.dtype).chunk(2)
            deviation = (variance + ctx.epsilon).rsqrt()
            slope = scale * deviation.square() * s2
            shift = scale * deviation * s1 - slope * mean
            shape = (1, -1) + (1,) * (x.dim() - 2)
            dx = dx - (x * slope.view(shape).to(x.dtype)).add_(shift.view(shape).to(x.dtype))
        return dx, dgamma if gamma is not None else None, dbeta if ctx.needs_input_grad[2] else None, None, None
