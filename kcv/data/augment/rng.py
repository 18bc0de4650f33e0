"""The random numbers of one batch, drawn identically by all processes that share it."""

from __future__ import annotations

import torch
from torch import Tensor


class BatchRng:
    """Draws a number for each image of a whole batch and returns those of this process's images.

    An image is therefore augmented in the same way in any process, and each image of a batch gets its own numbers.

    Args:
        generator: a generator freshly seeded for this batch, on the device of the numbers.
        count: the number of images of this process.
        begin: the number of images of the batch before them.
        total: the number of images in the batch; by default `count`.

    Attributes:
        count: as given.
        device: the device of the generator.
        seed: the initial seed of the generator.
    """

    def __init__(self, generator: torch.Generator, count: int, begin: int = 0, total: int | None = None) -> None:
        self.count = count
        self.device = generator.device
        self.seed = generator.initial_seed()
        self._generator = generator
        self._begin = begin
        self.total = count if total is None else total

    def uniform(self, groups: int, each: int = 1) -> Tensor:
        """Returns float32 [groups, count, each] in 0 to 1 (exclusive)."""
        numbers = torch.rand((groups, self.total, each), generator=self._generator, device=self.device)
        return self.own(numbers, dim=1)

    def integers(self, low: int, high: int, groups: int) -> Tensor:
        """Returns int64 [groups, count] in `low` to `high` (exclusive)."""
        numbers = torch.randint(low, high, (groups, self.total), generator=self._generator, device=self.device)
        return self.own(numbers, dim=1)

    def own(self, numbers: Tensor, dim: int) -> Tensor:
        """Returns this process's slice of the numbers of the whole batch."""
        return numbers.narrow(dim, self._begin, self.count)
