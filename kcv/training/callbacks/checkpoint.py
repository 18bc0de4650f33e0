"""Takes the state of a training between two steps, and puts it back when a run is continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras

from kcv.distributed.group import ALONE, Group
from kcv.training.callbacks.best import BestModel
from kcv.training.resume.state import Remembering, State, capture, restore, restore_generators, restore_metrics
from kcv.training.resume.stop_request import Stopping
from kcv.training.resume.writer import Writer

_STOP, _WRITE = 1, 2


class Startable(Protocol):
    """Training batches that can begin in the middle of an epoch."""

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Chooses the epoch and its first step, both from 0."""
        ...


class Checkpoint(keras.callbacks.Callback):
    """Offers states to a writer, at the beginning of each epoch and after each step, and stops where it is asked to.

    Must be the last callback: what it puts back would otherwise be reset by the others.

    Args:
        core: the model whose variables are kept.
        batches: the training batches.
        remembering: the callbacks that remember something, by name; `best` is one of them.
        writer: writes them; None for no checkpoints.
        stopping: whether somebody wants the training to stop.
        begin: the state to go on from; None to begin.
        rate: the learning rate over the configured one.
        keep_good: whether to keep the state at the beginning of each epoch, to return to.
        wanted: whether there are to be checkpoints; of several processes only the first has a writer.
        group: the processes, which stop and write after the same step.

    Attributes:
        good: the last state that `keep_good` has kept.
    """

    def __init__(
        self,
        core: keras.Model,
        batches: Startable,
        remembering: Mapping[str, Remembering],
        writer: Writer | None,
        stopping: Stopping,
        *,
        begin: State | None = None,
        rate: float = 1.0,
        keep_good: bool = False,
        wanted: bool = True,
        group: Group = ALONE,
    ) -> None:
        super().__init__()
        self.good: State | None = begin if keep_good else None
        self._core = core
        self._batches = batches
        self._remembering = remembering
        self._writer = writer
        self._stopping = stopping
        self._begin = begin
        self._rate = rate
        self._keep_good = keep_good
        self._wanted = wanted
        self._group = group
        self._epoch = self._behind = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts variables and callbacks back."""
        if self._begin is not None:
            restore(self._begin, self._core, self.model, self._remembering)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes to the step that is next, or takes the state of a new epoch."""
        self._epoch, self._behind = epoch, 0
        begin, self._begin = self._begin, None
        if begin is None:
            if self._keep_good and (state := self._capture(0)).finite:
                self.good = state
            self._consider(0)
            return
        self._behind = begin.step
        self._batches.set_epoch(epoch, begin.step)
        restore_metrics(begin, self.model)
        restore_generators(begin)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes the state after a step."""
        if batch >= self._behind:
            self._consider(batch + 1)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Waits until the last one is written."""
        if self._writer is not None:
            self._writer.wait()

    def _consider(self, step: int) -> None:
        if not self._group.agrees_at(step):
            return
        due = self._writer is not None and self._writer.due
        flags = self._group.agree(_STOP * self._stopping.requested | _WRITE * due)
        if not flags:
            return
        take: Callable[[], State] = lambda: self._capture(step).gathered(self._group)  # noqa: E731
        if flags & _STOP:
            if self._wanted:
                state = take()
                if self._writer is not None and state.finite:  # else there is no way on from it
                    self._writer.save(state)
            raise KeyboardInterrupt
        if self._writer is not None:
            self._writer.offer(take)
        else:
            take()  # the first process has asked for this one's part

    def _capture(self, step: int) -> State:
        best = self._remembering["best"]
        weights = best.weights if isinstance(best, BestModel) else []
        return capture(
            self._core,
            self.model,
            self._remembering,
            epoch=self._epoch,
            step=step,
            rate=self._rate,
            best=weights,
        )
