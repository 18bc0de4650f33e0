"""Learning rates as functions of the step."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kcv.config import OptimConfig

_START = 0.04
"""Where a warm-up begins, as a part of the peak: 1/25, as in Smith and Topin's 1cycle runs."""


class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to the peak, then a fall to zero (or none) over the rest of the steps.

    Args:
        peak: the highest rate.
        total_steps: optimizer steps of the whole run.
        warmup_steps: steps of the rise; 0 starts at the peak.
        decay: `linear` (with the rise: the one-cycle policy of Smith and Topin, arXiv:1708.07120, in its triangular
            form), `cosine` (Loshchilov and Hutter, arXiv:1608.03983, one cycle) or `constant`.
    """

    def __init__(self, peak: float, total_steps: int, warmup_steps: int, decay: str) -> None:
        super().__init__()
        if decay not in ("linear", "cosine", "constant"):
            raise ValueError(f"decay must be 'linear', 'cosine' or 'constant', received {decay!r}")
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.decay = decay

    def __call__(self, step: Any) -> Any:
        """Returns the rate at `step` (an integer or integer tensor, from 0) as a float32 scalar tensor."""
        step = ops.cast(step, "float32")
        rise = _START + (1 - _START) * step / max(self.warmup_steps, 1)
        left = max(self.total_steps - self.warmup_steps, 1)
        progress = ops.clip((step - self.warmup_steps) / left, 0.0, 1.0)
        if self.decay == "linear":
            fall = 1 - progress
        elif self.decay == "cosine":
            fall = 0.5 * (1 + ops.cos(math.pi * progress))
        else:
            fall = ops.ones_like(progress)
        return self.peak * ops.where(step < self.warmup_steps, rise, fall)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
        }


_DECAYS = {"one_cycle": "linear", "cosine": "cosine", "constant": "constant"}


def build_schedule(config: OptimConfig, steps_per_epoch: int, epochs: int) -> WarmupDecay:
    """Builds the configured schedule for a run of `epochs` epochs of `steps_per_epoch` optimizer steps."""
    return WarmupDecay(
        config.lr,
        total_steps=steps_per_epoch * epochs,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        decay=_DECAYS[config.schedule],
    )
