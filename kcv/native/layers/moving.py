"""The moving statistics of all batch normalisations of a program, updated together at the end of a training pass.

Each layer on its own takes five small operations for them. On a GPU, starting these takes longer than computing them:
ResNet-50 has 53 such layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """The moving statistics of one layer: float32 [c] each, which are changed in place."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class _Seen:
    """What one call of a layer found in a batch, and how much it counts."""

    entry: Entry
    mean: Tensor
    variance: Tensor
    count: int
    rate: float


class MovingStatistics:
    """Collects the batch statistics of one pass, and updates the moving ones when the pass is over.

    Example:
        statistics = MovingStatistics()
        entry = statistics.register(mean, variance)
        batch_mean, batch_variance = statistics.room(entry)  # for torch to write into
        statistics.saw(entry, batch_mean, batch_variance, count, rate)
        statistics.update()
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._shared: set[int] = set()
        self._free: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen: list[_Seen] = []

    def register(self, mean: Tensor, variance: Tensor) -> Entry:
        """Adds a call of a layer; the statistics of a layer that is called several times change after each call."""
        entry = Entry(mean, variance)
        if any(other.mean is mean for other in self._entries):
            self._shared.add(id(mean))
        self._entries.append(entry)
        return entry

    def begin(self) -> None:
        """Forgets what a pass that failed has left."""
        self._free, self._seen = {}, []

    def room(self, entry: Entry) -> tuple[Tensor, Tensor]:
        """Returns zeros for the mean and the variance of a batch, [c] each.

        One allocation serves a whole pass. Each tensor counts its changes on its own, as autograd requires: a slice
        would count those of all the others as well.
        """
        if torch.compiler.is_compiling():  # which merges small operations itself
            return torch.zeros_like(entry.mean), torch.zeros_like(entry.variance)
        room = self._free.pop(id(entry), None)
        if room is None:
            self._allocate(entry.mean)
            room = self._free.pop(id(entry))
        return room

    def _allocate(self, like: Tensor) -> None:
        """Makes room for all calls whose statistics have the dtype and the device of `like`."""
        entries = [
            entry for entry in self._entries if entry.mean.dtype == like.dtype and entry.mean.device == like.device
        ]
        sizes = [len(entry.mean) for entry in entries]
        zeros = torch.zeros(2 * sum(sizes), dtype=like.dtype, device=like.device)
        slices = [part.data for part in torch.split(zeros, sizes * 2)]
        for entry, mean, variance in zip(entries, slices[: len(entries)], slices[len(entries) :], strict=True):
            self._free[id(entry)] = mean, variance

    def saw(self, entry: Entry, mean: Tensor, variance: Tensor, count: int, rate: float) -> None:
        """Takes what a call found in a batch.

        Args:
            entry: from `register`.
            mean: of the batch, [c].
            variance: of the batch, unbiased, [c].
            count: the number of values for each channel.
            rate: how far the moving statistics go towards those of the batch, 0 to 1.
        """
        seen = _Seen(entry, mean, variance, count, rate)
        if torch.compiler.is_compiling() or id(entry.mean) in self._shared:
            _update([seen], rate)
        else:
            self._seen.append(seen)

    def update(self) -> None:
        """Updates the moving statistics with what the calls of this pass have found."""
        seen, self._seen = self._seen, []
        for rate in dict.fromkeys(one.rate for one in seen):
            _update([one for one in seen if one.rate == rate], rate)


@torch.no_grad()
def _update(seen: Sequence[_Seen], rate: float) -> None:
    # Keras takes the biased variance of a batch. For a single value it is 0, whereas torch divides by count - 1.
    unbiased = [one.variance if one.count > 1 else torch.zeros_like(one.variance) for one in seen]
    # Not in place, as autograd keeps what a pass has written.
    biased = list(torch._foreach_mul(unbiased, [(one.count - 1) / one.count for one in seen]))
    torch._foreach_lerp_(
        [one.entry.mean for one in seen] + [one.entry.variance for one in seen],
        [one.mean for one in seen] + biased,
        rate,
    )
