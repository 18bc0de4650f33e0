"""What an epoch's figures decide: which weights are kept, and when a training stops; and what they are measured by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import keras
from numpy.typing import NDArray

from kcv.data.batches import TrainingBatches
from kcv.distributed.group import Group
from kcv.errors import KcvError
from kcv.metrics.standing import UNKNOWN, Standing, higher_is_better, standing
from kcv.native.statistics import re_estimate, share_of_beginning

_LOSSES: Final = {"loss": "loss", "val_loss": "validation loss"}

_FADED: Final = 1e-3
"""The part of the beginning that no longer matters: momentum 0.9 comes below it after 66 steps, 0.99 after 688."""

_IMAGES: Final = 1_024
"""How many the statistics are estimated from; each has many positions, and more images hardly change the mean."""


class Diverged(KcvError):
    """The loss, of training or of validation, is no longer a number."""


class TerminateOnNaN(keras.callbacks.Callback):
    """Raises Diverged at the end of an epoch whose training or validation loss is not finite.

    It comes before whatever chooses, keeps or reports: such an epoch is in no history and never the best one. (The last
    step of an epoch can spoil weights where all figures of its training are sound.)

    `keras.callbacks.TerminateOnNaN` looks at the loss of every step, which makes the host wait for the device, and not
    at that of the validation.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the epoch's losses."""
        for key, name in _LOSSES.items():
            loss = float((logs or {}).get(key, 0.0))
            if not math.isfinite(loss):
                raise Diverged(
                    f"the {name} became {loss} in epoch {epoch + 1}: lower optim.lr, use precision=float32, or "
                    "train.on_divergence=rollback"
                )


class BestModel(keras.callbacks.Callback):
    """Remembers the best epoch's weights and saves each new best at once, so that a killed run leaves a model.

    Args:
        model: whose variables are kept.
        monitor: the log entry that decides first; see `kcv.metrics.standing.standing`.
        save: called with the epoch (from 1) when there is a new best; writes the file.
        higher: whether a higher monitor is better; None: as its name says.

    Attributes:
        best_epoch: the epoch (from 1) of the best weights, 0 before any.
        weights: the best weights; never changed, only replaced.
    """

    def __init__(
        self, model: keras.Model, monitor: str, save: Callable[[int], object], *, higher: bool | None = None
    ) -> None:
        super().__init__()
        self.best_epoch = 0
        self._kept_model = model  # not the one that is compiled, which is `self.model`
        self._monitor = monitor
        self._save = save
        self._higher = higher
        self._best: Standing | None = None
        self.weights: Sequence[NDArray[Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compares and, if no worse, keeps: of equal epochs the later one, which has learned longer."""
        found = standing(logs or {}, self._monitor, higher=self._higher)
        if found is None or (self._best is not None and found < self._best):
            return
        self._best = found
        self.best_epoch = epoch + 1
        self.weights = self._kept_model.get_weights()
        self._save(self.best_epoch)

    def restore(self) -> None:
        """Puts the best weights back into the model."""
        if self.weights:
            self._kept_model.set_weights(list(self.weights))

    def state_dict(self) -> dict[str, Any]:
        """Returns the best epoch and its figures; the weights are kept apart, because they are large."""
        return {"best_epoch": self.best_epoch, "standing": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the best epoch back; `weights` must be set beside it."""
        self.best_epoch = state["best_epoch"]
        if "standing" in state:
            self._best = None if state["standing"] is None else tuple(state["standing"])
        else:  # a checkpoint of kcv 0.1.0, which compared the monitor alone, losses with their sign changed
            self._best = None if state["best"] is None else (state["best"], UNKNOWN)


class EarlyStopping(keras.callbacks.Callback):
    """Ends a training after some epochs in a row of which none was better than the best before.

    `keras.callbacks.EarlyStopping` compares one figure, and takes an epoch that is no better in it for a lost one.

    Args:
        monitor: see `kcv.metrics.standing.standing`.
        patience: how many epochs, 1 or more.
        higher: whether a higher monitor is better; None: as its name says.

    Attributes:
        wait: epochs since the best.
        best: what that one is compared by; None before any.
    """

    def __init__(self, monitor: str, patience: int, *, higher: bool | None = None) -> None:
        super().__init__()
        self.wait = 0
        self.best: Standing | None = None
        self._monitor = monitor
        self._patience = patience
        self._higher = higher

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts, and stops the model's `fit` where it has been long enough."""
        found = standing(logs or {}, self._monitor, higher=self._higher)
        # One that is equal in all is no progress: else a training that stands still would never end.
        if found is not None and (self.best is None or found > self.best):
            self.wait, self.best = 0, found
            return
        self.wait += 1
        if self.wait >= self._patience:
            self.model.stop_training = True

    def state_dict(self) -> dict[str, Any]:
        """Returns how long it has waited for what."""
        return {"wait": self.wait, "standing": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on waiting."""
        self.wait = state["wait"]
        if "standing" in state:
            self.best = None if state["standing"] is None else tuple(state["standing"])
        elif state["best"] is not None:  # a checkpoint of kcv 0.1.0, which compared the monitor alone
            self.best = (state["best"] if higher_is_better(self._monitor) else -state["best"], UNKNOWN)


class FreshStatistics(keras.callbacks.Callback):
    """Estimates the moving statistics of batch normalisation anew before a validation, for as long as steps are few.

    After an epoch in which they have caught up on their own it does nothing, so that a long training is as it would be
    without it. It must come after the callback that puts averaged weights in place: the statistics are to be theirs.

    Args:
        fitted: the functional model whose layers are fitted.
        batches: the training batches.
        group: the processes.
    """

    def __init__(self, fitted: keras.Model, batches: TrainingBatches, group: Group) -> None:
        super().__init__()
        self._fitted = fitted
        self._batches = batches
        self._group = group
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers which epoch it is."""
        self._epoch = epoch

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Estimates, if need be, from the first batches of the epoch that is over."""
        # The optimizer's own count: that of the stage, which a continued run has again.
        if share_of_beginning(self._fitted, int(self.model.optimizer.iterations)) <= _FADED:
            return
        batches = self._batches
        size = -(-len(batches.images) // len(batches))
        batches.set_epoch(self._epoch, 0, min(len(batches), -(-_IMAGES // size)))
        re_estimate(self.model, (batch[0] for batch in batches), self._group)
        batches.set_epoch(self._epoch)
