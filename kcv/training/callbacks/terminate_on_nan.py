"""Stops a run whose figures are no longer numbers."""

from __future__ import annotations

import math
from typing import Any, Final

import keras

from kcv.errors import KcvError

_LOSSES: Final = {"loss": "loss", "val_loss": "validation loss"}


class Diverged(KcvError):
    """The loss, of training or of validation, is no longer a number."""


class FiniteLoss(keras.callbacks.Callback):
    """Raises Diverged at the end of an epoch whose training or validation loss is not finite.

    It comes before whatever chooses, keeps or reports: such an epoch is in no history and never the best one. (The last
    step of an epoch can spoil weights where all figures of its training are sound.)

    Checked once an epoch, because looking at the loss of every step would make the host wait for the device.
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
