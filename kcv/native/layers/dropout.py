"""Dropout of single values and of whole slices (stochastic depth)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from keras import layers
from torch import Tensor

from kcv.native.layers.lowered import Lowered, Target, Value, compute_dtype, lowers

_APART = 0x9E3779B1  # odd and large, so that multiples by a rank never coincide with step counts


@lowers(layers.Dropout, layers.SpatialDropout2D, rearranges=True)
def lower_dropout(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Dropout` and `SpatialDropout2D`.

    With a seed or a noise shape it draws the same mask as Keras, from the layer's seed generator; otherwise from
    torch's global generator, in memory order. On a GPU a seed generator would make the host wait for the device, so
    masks there always come from the device's own generator, with the same distribution.
    """
    (value,) = inputs
    rate, dtype = float(layer.rate), compute_dtype(layer)
    shape = _noise_shape(layer)
    plain = shape is None and layer.seed is None
    seeds = getattr(layer, "seed_generator", None)  # None if the rate is 0
    # A mask is drawn in the order of Keras' layout. Moving the image preserves that order only if the mask spans at
    # most its channels, or at most its height and width.
    transposed = value.transposed and (plain or (shape is not None and (shape[1:3] == (1, 1) or shape[3] == 1)))
    if shape is not None and transposed:
        shape = tuple(shape[i] for i in (0, 3, 1, 2))

    def run(training: bool, x: Tensor) -> Tensor:
        x = x.to(dtype)
        if not training or rate == 0:
            return x
        if plain:
            return F.dropout(x, rate, training=True)
        if rate == 1:
            return torch.zeros_like(x)
        size = x.shape if shape is None else [n if m is None else m for n, m in zip(x.shape, shape, strict=True)]
        keep = torch.full(tuple(size), 1 - rate, device=x.device)
        generator = _draw(seeds, x.device, target.rank)
        return x * torch.bernoulli(keep, generator=generator).div_(1 - rate).to(dtype)

    return Lowered(run, input_transposed=transposed, output_transposed=transposed)


def _noise_shape(layer: Any) -> tuple[int | None, ...] | None:
    if hasattr(layer, "data_format"):  # SpatialDropout2D: one draw per channel of an image
        return (None, None, 1, 1) if layer.data_format == "channels_first" else (None, 1, 1, None)
    return None if layer.noise_shape is None else tuple(layer.noise_shape)


def _draw(seeds: Any, device: torch.device, rank: int) -> torch.Generator | None:
    """Returns the generator of this call and advances the layer's seed as Keras does; each rank draws differently."""
    if device.type != "cpu":
        return None
    state = seeds.state.value
    first, second = state.tolist()
    with torch.no_grad():
        state[1] += 1
    return torch.Generator().manual_seed((first + second + rank * _APART) & 0xFFFFFFFF)
