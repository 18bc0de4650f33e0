"""Captures the training state between two steps, and restores it when a run is resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras

from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.native.logs import LazyCallbackList
from kcv.training.callbacks.control import BestModel
from kcv.training.resume.state import State, Stateful, capture, restore, restore_generators, restore_metrics
from kcv.training.resume.stop_request import StopRequest
from kcv.training.resume.user_state import UserState
from kcv.training.resume.writer import Writer

_STOP, _WRITE = 1, 2


class Startable(Protocol):
    """Training batches that can start in the middle of an epoch."""

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Selects the epoch and its first step, both from 0."""
        ...


class Checkpoint(keras.callbacks.Callback):
    """Offers states to a writer at the start of each epoch and after each step, and stops training on request.

    Must be the last callback: the other callbacks would reset what it restores.

    Args:
        model: the model whose variables are saved.
        batches: the training batches.
        stateful: kcv's own stateful callbacks by name; `best` is one of them.
        writer: writes the states; None for no checkpoints.
        stop_request: whether training has been asked to stop.
        resume_from: the state to resume from; None starts from the beginning.
        lr_factor: the learning rate relative to the configured one.
        keep_good: whether to keep the state at the start of each epoch for a rollback.
        wanted: whether checkpoints are enabled; with several processes, only the main process has a writer.
        group: the processes, which stop and write after the same step.
        user: the user's callbacks.

    Attributes:
        last_good: the last state kept because of `keep_good`.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Startable,
        stateful: Mapping[str, Stateful],
        writer: Writer | None,
        stop_request: StopRequest,
        *,
        resume_from: State | None = None,
        lr_factor: float = 1.0,
        keep_good: bool = False,
        wanted: bool = True,
        group: Group = SINGLE_PROCESS,
        user: UserState | None = None,
    ) -> None:
        super().__init__()
        self.last_good: State | None = resume_from if keep_good else None
        self._kept_model = model  # not the compiled model, which is `self.model`
        self._batches = batches
        self._stateful = stateful
        self._writer = writer
        self._stop_request = stop_request
        self._resume_from = resume_from
        self._lr_factor = lr_factor
        self._keep_good = keep_good
        self._wanted = wanted
        self._group = group
        self._user = user or UserState()
        self._epoch = self._steps_to_skip = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores variables and callbacks."""
        if self._resume_from is not None:
            restore(self._resume_from, self._kept_model, self.model, self._stateful)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves to the next step of a resumed epoch, or captures the state at the start of a new one."""
        self._epoch, self._steps_to_skip = epoch, 0
        state, self._resume_from = self._resume_from, None
        if state is None:
            if self._keep_good and (state := self._capture(0)).finite:
                self.last_good = state
            self._consider(0)
            return
        self._steps_to_skip = state.step
        self._batches.set_epoch(epoch, state.step)
        restore_metrics(state, self.model)
        # Only now: the state already includes what they do when training or an epoch begins.
        self._user.load_from(state)
        restore_generators(state)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Captures the state after a step."""
        if batch >= self._steps_to_skip:
            self._consider(batch + 1)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Waits until the last checkpoint is written."""
        if self._writer is not None:
            self._writer.wait()

    def _consider(self, step: int) -> None:
        if not self._group.agrees_at(step):
            return
        due = self._writer is not None and self._writer.due
        flags = self._group.all_reduce_or(_STOP * self._stop_request.requested | _WRITE * due)
        if not flags:
            return
        take: Callable[[], State] = lambda: self._capture(step).gathered(self._group)  # noqa: E731
        if flags & _STOP:
            if self._wanted:
                state = take()
                if self._writer is not None and state.finite:  # training could not resume from it otherwise
                    self._writer.save(state)
            raise KeyboardInterrupt
        if self._writer is not None:
            self._writer.offer(take)
        else:
            take()  # the main process is gathering this process's part

    def _capture(self, step: int) -> State:
        best = self._stateful["best"]
        weights = best.weights if isinstance(best, BestModel) else []
        state = capture(
            self._kept_model,
            self.model,
            self._stateful,
            epoch=self._epoch,
            step=step,
            lr_factor=self._lr_factor,
            best=weights,
        )
        return self._user.add_to(state)


class ResumingCallbackList(LazyCallbackList):
    """A list of callbacks that skips the steps an interrupted epoch has already completed.

    Args:
        callbacks: in call order.
        model: the model being trained.
        epochs: number of epochs of the run.
        steps: number of steps per epoch.
        skip: number of steps of the first epoch already completed.
    """

    def __init__(
        self,
        callbacks: list[keras.callbacks.Callback],
        *,
        model: keras.Model,
        epochs: int,
        steps: int,
        skip: int = 0,
    ) -> None:
        super().__init__(callbacks, model=model, epochs=epochs, steps=steps)
        self._skip = skip

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Calls the callbacks, unless the step was completed before the interruption."""
        if batch >= self._skip:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Calls the callbacks, unless the step was completed before the interruption."""
        if batch >= self._skip:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Calls the callbacks; later epochs skip no steps."""
        self._skip = 0
        super().on_epoch_end(epoch, logs)
