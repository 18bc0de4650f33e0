"""Stops a run whose loss is no longer a number."""

from __future__ import annotations

import math
from typing import Any

import keras

from kcv.errors import KcvError


class Diverged(KcvError):
    """The loss is no longer a number."""


class FiniteLoss(keras.callbacks.Callback):
    """Raises Diverged at the end of an epoch whose training loss is not finite.

    Checked once an epoch, because looking at the loss of every step would make the host wait for the device.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the epoch's loss."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} in epoch {epoch + 1}: lower optim.lr, use precision=float32, or "
                "train.on_divergence=rollback"
            )
