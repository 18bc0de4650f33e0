"""The memory layout of parameters, independent of the shape that Keras sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def restride(tensor: Tensor, order: Sequence[int], memory_format: torch.memory_format) -> None:
    """Changes a tensor's memory layout so that `tensor.permute(order)` is dense in a memory format.

    Shape, values and identity stay the same; only strides change, and views of the old storage are detached. Does
    nothing if the strides are already right.

    Args:
        tensor: a parameter with four dimensions.
        order: the order of dimensions that an operation needs.
        memory_format: the memory format that it needs.
    """
    wanted = tensor.detach().permute(*order)
    laid = wanted.contiguous(memory_format=memory_format)
    if not laid_alike(laid, wanted):
        back = [list(order).index(dimension) for dimension in range(len(order))]
        tensor.data = laid.permute(*back)


def laid_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of the same shape store their entries in the same order in memory."""
    if a.stride() == b.stride():
        return True
    # The stride of a dimension of size 1 is irrelevant, and torch does not set it consistently.
    return all(size == 1 or x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))


def like(reference: Tensor, tensor: Tensor) -> Tensor:
    """Returns a tensor with the layout and dtype of a dense reference: itself or a copy."""
    if tensor.dtype == reference.dtype and laid_alike(tensor, reference):
        return tensor
    return torch.empty_like(reference).copy_(tensor)


def flat(tensor: Tensor) -> Tensor:
    """Returns a dense tensor's entries as a one-dimensional view, in memory order."""
    return tensor if tensor.is_contiguous() else tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


class FlatViews:
    """Remembers the `flat` views of tensors that live as long as training, so that a step need not make them again."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, tuple[int, ...], Tensor]] = {}

    def of(self, tensor: Tensor, reference: Tensor) -> Tensor:
        """Returns the entries of a tensor in the memory order of a dense reference.

        Args:
            tensor: of the same shape as the reference; if it is stored in another order, its storage is replaced.
            reference: the tensor whose order counts; possibly the same.
        """
        known = self._known.get(id(tensor))
        if known is not None and known[:2] == (tensor.data_ptr(), reference.stride()):
            return known[2]
        if not laid_alike(tensor, reference):
            tensor.data = like(reference, tensor.data)
        view = flat(tensor.data)
        # The view keeps the storage, so no other tensor can come to have the same address.
        self._known[id(tensor)] = (tensor.data_ptr(), reference.stride(), view)
        return view
