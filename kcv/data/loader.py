"""Finished batches on their way to Keras."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

Item = TypeVar("Item")


def as_loader(batches: IterableDataset[Item]) -> DataLoader[Item]:
    """Returns finished batches as Keras' `fit(..., shuffle=False)` and `evaluate` take them.

    The loader passes them on as they are, in this process. A new pass over it starts work only when its first batch is
    asked for: Keras makes an iterator at the end of each epoch that it then throws away.
    """
    # Without a generator of its own, each pass would draw a number from the global one.
    return DataLoader(batches, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator())


def _as_it_is(batch: Any) -> Any:
    return batch
