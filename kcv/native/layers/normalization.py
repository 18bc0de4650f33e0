"""Batch normalisation with Keras' moving statistics, optionally synchronised; layer normalisation; fixed rescaling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch
import torch.nn.functional as F
from keras import layers
from torch import Tensor

from kcv.native.layers import fused_normalization
from kcv.native.layers.activations import activation_named
from kcv.native.layers.lowered import Lowered, Run, Target, Value, compute_dtype, lowers, require


@lowers(layers.BatchNormalization)
def lower_batch_normalization(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `BatchNormalization` to torch's fused function.

    Keras updates its moving variance with the batch's biased variance, torch with the unbiased one. So torch gets
    empty statistics and a momentum of 1, leaves the batch statistics in them, and `MovingStatistics` updates the moving
    ones. (They cannot be updated around torch's call, because autograd checks that they are unchanged.)
    """
    (value,) = inputs
    require(not layer.renorm, "batch renormalisation")
    rank = len(value.shape)
    axis = layer.axis % rank
    images = rank == 4
    transposed = images and axis == 3
    require(axis == 1 or transposed or (rank == 2 and axis == 1), f"axis {layer.axis} of a tensor of rank {rank}")
    gamma = layer.gamma.value if layer.scale else None
    beta = layer.beta.value if layer.center else None
    mean, variance = layer.moving_mean.value, layer.moving_variance.value
    if mean.is_cuda:  # torch's CUDA kernels fail in the backward pass if just one of the two is missing
        gamma = torch.ones_like(mean) if gamma is None else gamma
        beta = torch.zeros_like(mean) if beta is None else beta
    dtype, epsilon = compute_dtype(layer), layer.epsilon
    statistics = target.statistics
    kernels = target.kernels if target.all_reduce_sum is None else None  # they know no other processes
    entry = statistics.register(mean, variance)

    def run(training: bool, x: Tensor, activation: str = "linear") -> Tensor:
        x = x.to(dtype)
        if kernels is not None and training and layer.trainable and fused_normalization.takes(x):
            y, batch_mean, batch_variance = fused_normalization.normalize(x, gamma, beta, epsilon, activation, kernels)
            statistics.saw(entry, batch_mean, batch_variance, x.numel() // x.shape[1], 1.0 - layer.momentum)
            return y
        y = plain(training, x)
        return y if activation == "linear" else activation_named(activation)(y)

    def plain(training: bool, x: Tensor) -> Tensor:
        if not (training and layer.trainable):
            return torch.batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon, True)
        rate = 1.0 - layer.momentum  # read on each call: `kcv.native.statistics` changes it temporarily
        if target.all_reduce_sum is not None:
            y, batch_mean, batch_variance = SyncedBatchNorm.apply(x, gamma, beta, epsilon, target.all_reduce_sum)
            with torch.no_grad():
                mean.lerp_(batch_mean, rate)
                variance.lerp_(batch_variance, rate)
            return y  # type: ignore[no-any-return]
        batch_mean, batch_variance = statistics.room(entry)
        y = torch.batch_norm(x, gamma, beta, batch_mean, batch_variance, True, 1.0, epsilon, True)
        statistics.saw(entry, batch_mean, batch_variance, x.numel() // x.shape[1], rate)
        return y

    def activated(name: str) -> Run:
        return functools.partial(run, activation=name)

    def affine(training: bool) -> tuple[Tensor, Tensor] | None:
        if training and layer.trainable:
            return None
        scale = torch.rsqrt(variance + epsilon)
        scale = scale if gamma is None else gamma * scale
        return scale, torch.addcmul(torch.zeros_like(mean) if beta is None else beta, mean, scale, value=-1)

    return Lowered(
        run,
        input_transposed=transposed,
        output_transposed=transposed,
        output_reusable=True,
        affine=affine if images else None,
        activated=activated if images and kernels is not None else None,
    )


@lowers(layers.LayerNormalization)
def lower_layer_normalization(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `LayerNormalization` over the last axis."""
    (value,) = inputs
    rank = len(value.shape)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    require([axis % rank for axis in axes] == [rank - 1], f"axis {layer.axis} of a tensor of rank {rank}")
    require(not layer.rms_scaling, "a scale by the variance")
    gamma = layer.gamma.value if layer.scale else None
    beta = layer.beta.value if layer.center else None
    dtype, epsilon = compute_dtype(layer), layer.epsilon

    # In half precision it is computed in float32, as Keras does and torch's autocast.
    wide = torch.promote_types(dtype, torch.float32)

    def run(training: bool, x: Tensor) -> Tensor:
        weight, bias = (None if part is None else part.to(wide) for part in (gamma, beta))
        return F.layer_norm(x.to(dtype).to(wide), x.shape[-1:], weight, bias, epsilon).to(dtype)

    return Lowered(run, output_reusable=True)


@lowers(layers.Rescaling)
def lower_rescaling(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Rescaling` with a single factor."""
    require(isinstance(layer.scale, int | float) and isinstance(layer.offset, int | float), "a scale for each channel")
    (value,) = inputs
    scale, offset, dtype = float(layer.scale), float(layer.offset), compute_dtype(layer)

    def run(training: bool, x: Tensor) -> Tensor:
        x = x.to(dtype) * scale
        return x.add_(offset) if offset else x

    return Lowered(run, input_transposed=value.transposed, output_transposed=value.transposed, output_reusable=True)


@lowers(layers.Normalization)
def lower_normalization(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Normalization` with fixed statistics."""
    require(not layer.invert and layer.mean is not None, "an inverted or unadapted Normalization")
    dtype = compute_dtype(layer)
    known: tuple[Any, Tensor, Tensor] | None = None

    def run(training: bool, x: Tensor) -> Tensor:
        nonlocal known
        if known is None or known[0] is not layer.mean:  # weights loaded later replace the statistics
            mean = torch.as_tensor(layer.mean).detach().to(dtype)
            variance = torch.as_tensor(layer.variance).detach().to(dtype)
            known = (layer.mean, mean, variance.sqrt().clamp_min(keras.config.epsilon()))
        return (x.to(dtype) - known[1]) / known[2]

    return Lowered(run, output_reusable=True)


AddUp = Callable[[Tensor], Tensor]
"""Replaces a tensor with its sum over all processes."""


class SyncedBatchNorm(torch.autograd.Function):
    """Normalises with mean and variance of the whole batch, and computes the gradient of the whole batch.

    torch's SyncBatchNorm has no CPU kernels. This one runs the fused inference kernels, forward and backward, with the
    shared statistics, and adds the gradient that flows through the statistics: with `s1` and `s2` the sums over all
    images of dy and of dy times the normalised input, dx = gamma / std * (dy - s1 / n - normalised * s2 / n)
    (Ioffe & Szegedy 2015, arXiv 1502.03167, section 3).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, all_reduce_sum: AddUp
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the output, and mean and biased variance of the whole batch, each [c]."""
        others = [axis for axis in range(x.dim()) if axis != 1]
        local_count = x.numel() // x.shape[1]
        wide = torch.promote_types(x.dtype, torch.float32)
        variance, mean = torch.var_mean(x.to(wide), others, correction=0)
        # In double precision the sum of squares is accurate enough for a float32 variance.
        mean, variance = mean.double(), variance.double()
        ones = torch.ones_like(mean[:1])
        sums = torch.cat([mean * local_count, (variance + mean.square()) * local_count, ones * local_count])
        sums = all_reduce_sum(sums)
        count = sums[-1]
        mean, squares = (sums[:-1] / count).chunk(2)
        variance = (squares - mean.square()).clamp_min(0.0)
        mean, variance = mean.to(wide), variance.to(wide)
        y = torch.batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon, True)
        ctx.save_for_backward(x, gamma, mean, variance, count)
        ctx.epsilon, ctx.all_reduce_sum = epsilon, all_reduce_sum
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *unused: Any) -> tuple[Any, ...]:
        """Returns the gradients of input, gamma and beta; the latter two cover this process's part only."""
        x, gamma, mean, variance, count = ctx.saved_tensors
        scale = torch.ones_like(mean) if gamma is None else gamma
        dx, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            dy, x, scale, mean, variance, None, None, False, ctx.epsilon, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            s1, s2 = (ctx.all_reduce_sum(torch.cat([dbeta, dgamma]).double()) / count).to(mean.dtype).chunk(2)
            deviation = (variance + ctx.epsilon).rsqrt()
            slope = scale * deviation.square() * s2
            shift = scale * deviation * s1 - slope * mean
            shape = (1, -1) + (1,) * (x.dim() - 2)
            dx = dx - (x * slope.view(shape).to(x.dtype)).add_(shift.view(shape).to(x.dtype))
        return dx, dgamma if gamma is not None else None, dbeta if ctx.needs_input_grad[2] else None, None, None
