"""Callbacks that select weights, stop training and refresh the batch statistics before validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import keras
from numpy.typing import NDArray

from kcv.data.batches import TrainingBatches
from kcv.distributed.group import Group
from kcv.errors import KcvError
from kcv.metrics.standing import UNKNOWN, Standing, higher_is_better, standing
from kcv.native.statistics import re_estimate, share_of_beginning

_LOSSES: Final = {"loss": "loss", "val_loss": "validation loss"}

_FADED: Final = 1e-3
"""Share of the initial value below which it no longer matters: reached after 66 steps at momentum 0.9, 688 at 0.99."""

IMAGES_FOR_STATISTICS: Final = 1_024
"""Images used to estimate the statistics; each has many positions, so more images hardly change the mean."""


class Diverged(KcvError):
    """The training or validation loss is no longer finite."""


class TerminateOnNaN(keras.callbacks.Callback):
    """Raises Diverged at the end of an epoch whose training or validation loss is not finite.

    It must come before all callbacks that select, store or report: such an epoch is never in the history and never the
    best one. (The last step of an epoch can spoil the weights even though all its training metrics are finite.)

    `keras.callbacks.TerminateOnNaN` reads the loss after every step, which makes the host wait for the device, and it
    does not check the validation loss.
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
    """Keeps the best epoch's weights and saves each new best at once, so that a killed run still has a model file.

    With few validation images the best of many epochs is mostly the luckiest one. Where the learning rate falls to its
    end, the last epoch is then the better choice: `keep="last"`.

    Args:
        model: the model whose weights are kept.
        monitor: the log entry compared first; see `kcv.metrics.standing.standing`.
        save: called with the epoch (from 1) for each new best; writes the file.
        higher: whether a higher monitor is better; None infers it from the name.
        keep: `best`, or `last`, for which each epoch counts as the best so far.

    Attributes:
        best_epoch: the epoch (from 1) of the best weights; 0 if there is none yet.
        weights: the best weights; never modified, only replaced.
    """

    def __init__(
        self,
        model: keras.Model,
        monitor: str,
        save: Callable[[int], object],
        *,
        higher: bool | None = None,
        keep: Literal["best", "last"] = "best",
    ) -> None:
        super().__init__()
        self.best_epoch = 0
        self._kept_model = model  # not the compiled model, which is `self.model`
        self._monitor = monitor
        self._save = save
        self._higher = higher
        self._keep = keep
        self._best: Standing | None = None
        self.weights: Sequence[NDArray[Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the weights if the epoch counts; on a tie the later one wins, as it has trained longer."""
        found = standing(logs or {}, self._monitor, higher=self._higher)
        if self._keep == "best" and (found is None or (self._best is not None and found < self._best)):
            return
        self._best = found or (UNKNOWN, UNKNOWN)
        self.best_epoch = epoch + 1
        self.weights = self._kept_model.get_weights()
        self._save(self.best_epoch)

    def restore(self) -> None:
        """Puts the best weights back into the model."""
        if self.weights:
            self._kept_model.set_weights(list(self.weights))

    def state_dict(self) -> dict[str, Any]:
        """Returns the best epoch and its metrics; the weights are stored separately because they are large."""
        return {"best_epoch": self.best_epoch, "standing": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the best epoch; `weights` must be set separately."""
        self.best_epoch = state["best_epoch"]
        if "standing" in state:
            self._best = None if state["standing"] is None else tuple(state["standing"])
        else:  # a checkpoint of kcv 0.1.0, which compared the monitor alone, with losses negated
            self._best = None if state["best"] is None else (state["best"], UNKNOWN)


class EarlyStopping(keras.callbacks.Callback):
    """Stops training after `patience` consecutive epochs without an improvement.

    `keras.callbacks.EarlyStopping` compares one metric only and counts a tie in it as no improvement.

    Args:
        monitor: see `kcv.metrics.standing.standing`.
        patience: number of epochs, at least 1.
        higher: whether a higher monitor is better; None infers it from the name.

    Attributes:
        wait: epochs since the best epoch.
        best: the best epoch's standing, used for comparison; None if there is none yet.
    """

    def __init__(self, monitor: str, patience: int, *, higher: bool | None = None) -> None:
        super().__init__()
        self.wait = 0
        self.best: Standing | None = None
        self._monitor = monitor
        self._patience = patience
        self._higher = higher

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts epochs without an improvement, and stops `fit` when patience runs out."""
        found = standing(logs or {}, self._monitor, higher=self._higher)
        # A complete tie is no improvement: otherwise a training run that stagnates would never end.
        if found is not None and (self.best is None or found > self.best):
            self.wait, self.best = 0, found
            return
        self.wait += 1
        if self.wait >= self._patience:
            self.model.stop_training = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the wait count and the best standing."""
        return {"wait": self.wait, "standing": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the wait count and the best standing."""
        self.wait = state["wait"]
        if "standing" in state:
            self.best = None if state["standing"] is None else tuple(state["standing"])
        elif state["best"] is not None:  # a checkpoint of kcv 0.1.0, which compared the monitor alone
            self.best = (state["best"] if higher_is_better(self._monitor) else -state["best"], UNKNOWN)


def steps_to_settle(model: keras.Model) -> int:
    """Returns the number of steps after which `FreshStatistics` does nothing: 0 if no layer learns statistics."""
    momentum = share_of_beginning(model, 1)
    return math.ceil(math.log(_FADED) / math.log(momentum)) if 0 < momentum < 1 else 0


class FreshStatistics(keras.callbacks.Callback):
    """Re-estimates the moving statistics of batch normalisation before validation, while the step count is low.

    It does nothing once the statistics have converged on their own, so a long training run is unaffected. It must come
    after the callback that swaps in averaged weights: the statistics have to match those weights.

    Args:
        fitted: the functional model being fitted.
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
        """Stores the index of the current epoch."""
        self._epoch = epoch

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Re-estimates the statistics from the first batches of the finished epoch, if needed."""
        # The optimizer's own step count: it counts the steps of the stage, and a resumed run restores it.
        if share_of_beginning(self._fitted, int(self.model.optimizer.iterations)) <= _FADED:
            return
        batches = self._batches
        size = -(-len(batches.images) // len(batches))
        batches.set_epoch(self._epoch, 0, min(len(batches), -(-IMAGES_FOR_STATISTICS // size)))
        re_estimate(self.model, (batch[0] for batch in batches), self._group)
        batches.set_epoch(self._epoch)
