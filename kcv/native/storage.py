"""Where a parameter's numbers lie in memory, apart from the shape that Keras sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def restride(tensor: Tensor, order: Sequence[int], memory_format: torch.memory_format) -> None:
    """Lays a tensor's storage out so that `tensor.permute(order)` is dense in a memory format.

    Shape, values and identity stay; only strides change, and views of the old storage no longer follow. Does nothing
    where the strides are right already.

    Args:
        tensor: a parameter of four dimensions.
        order: of the dimensions that an operation wants.
        memory_format: in which it wants them.
    """
    wanted = tensor.detach().permute(*order)
    laid = wanted.contiguous(memory_format=memory_format)
    if laid.stride() != wanted.stride():
        back = [list(order).index(dimension) for dimension in range(len(order))]
        tensor.data = laid.permute(*back)


def like(reference: Tensor, tensor: Tensor) -> Tensor:
    """Returns a tensor with the strides of a dense reference: itself, or a copy."""
    if tensor.stride() == reference.stride() and tensor.dtype == reference.dtype:
        return tensor
    return torch.empty_strided(
        reference.shape, reference.stride(), dtype=reference.dtype, device=reference.device
    ).copy_(tensor)
