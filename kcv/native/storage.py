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
    if not laid_alike(laid, wanted):
        back = [list(order).index(dimension) for dimension in range(len(order))]
        tensor.data = laid.permute(*back)


def laid_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have their entries in the same order in memory."""
    if a.stride() == b.stride():
        return True
    # Along a dimension of size 1 nobody steps, and torch sets its stride now in one way, now in another.
    return all(size == 1 or x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))


def like(reference: Tensor, tensor: Tensor) -> Tensor:
    """Returns a tensor laid out and typed like a dense reference: itself, or a copy."""
    if tensor.dtype == reference.dtype and laid_alike(tensor, reference):
        return tensor
    return torch.empty_like(reference).copy_(tensor)


def flat(tensor: Tensor) -> Tensor:
    """Returns a dense tensor's entries as one row, in the order in which they lie in memory: a view."""
    return tensor if tensor.is_contiguous() else tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
