"""The random numbers of one batch, drawn alike by all processes that have a part of it."""

from __future__ import annotations

import torch
from torch import Tensor


class BatchRng:
    """Draws a number for each image of a whole batch and gives those of this process's images.

    So an image is changed in the same way whoever has it, and no two images of a batch get the same numbers.

    Args:
        generator: freshly seeded for this batch, on the device where the numbers are wanted.
        count: images that this process has.
        begin: images of the batch before them.
        total: images of the batch; by default there are no others.

    Attributes:
        count: as given.
        device: of the generator.
        seed: that the generator began with.
    """

    def __init__(self, generator: torch.Generator, count: int, begin: int = 0, total: int | None = None) -> None:
        self.count = count
        self.device = generator.device
        self.seed = generator.initial_seed()
        self._generator = generator
        self._begin = begin
        self.total = count if total is None else total

    def uniform(self, groups: int, each: int = 1) -> Tensor:
        """Returns float32 [groups, count, each] in 0 to 1 (not included)."""
        numbers = torch.rand((groups, self.total, each), generator=self._generator, device=self.device)
        return self.own(numbers, dim=1)

    def integers(self, low: int, high: int, groups: int) -> Tensor:
        """Returns int64 [groups, count] in `low` to `high` (not included)."""
        numbers = torch.randint(low, high, (groups, self.total), generator=self._generator, device=self.device)
        return self.own(numbers, dim=1)

    def own(self, numbers: Tensor, dim: int) -> Tensor:
        """Returns those of this process among numbers of the whole batch."""
        return numbers.narrow(dim, self._begin, self.count)
