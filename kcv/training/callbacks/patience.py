"""Stops when the monitor has not become better for some epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


class Patience(keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that can be continued in another process."""

    def state(self) -> dict[str, Any]:
        """Returns how long it has waited for what."""
        best = None if self.best is None else float(self.best)
        return {"wait": self.wait, "best": best, "best_epoch": self.best_epoch}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on waiting."""
        self.wait, self.best, self.best_epoch = state["wait"], state["best"], state["best_epoch"]
