"""Builds the optimizer and the learning-rate schedule of a run from its configuration."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from kcv.config import OptimConfig
from kcv.native.optimizers import FusedAdamW, FusedSGD

_NOT_DECAYED = ["bias", "beta", "gamma"]
"""Names of shift and scale variables: weight decay would only undo what normalisation learns."""

_SHIFTS = ("bias", "beta")

_START = 0.04
"""Where a warm-up begins, as a fraction of the peak: 1/25, as in Smith and Topin's 1cycle runs."""

_DECAYS = {"one_cycle": "linear", "cosine": "cosine", "constant": "constant"}


def build_optimizer(
    config: OptimConfig,
    *,
    steps_per_epoch: int,
    epochs: int,
    lr_scale: float = 1.0,
    ema: float | None = None,
    depths: Mapping[str, int],
    schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
) -> keras.optimizers.Optimizer:
    """Builds the optimizer with its learning-rate schedule.

    Args:
        config: learning rate, weight decay and schedule.
        steps_per_epoch: optimizer steps per epoch.
        epochs: epochs that the schedule covers: those of one stage.
        lr_scale: factor on all learning rates; below 1 after a rollback.
        ema: decay of the moving average of the weights; None for no average.
        depths: depths of the backbone's layers, as returned by `kcv.models.backbone.Backbone.depths`.
        schedule: replaces the configured schedule.
    """
    if schedule is None:
        schedule = build_schedule(config, steps_per_epoch, epochs, lr_scale)
    common = {
        "learning_rate": schedule,
        "weight_decay": config.weight_decay,
        "use_ema": ema is not None,
        "ema_momentum": ema if ema is not None else 0.99,
    }
    if config.name == "sgd":
        optimizer = FusedSGD(momentum=config.momentum, nesterov=config.momentum > 0, **common)
    else:
        optimizer = FusedAdamW(**common)
    optimizer.scale_learning_rate(_scales(config, depths))
    optimizer.exclude_from_weight_decay(var_names=_NOT_DECAYED)
    return optimizer


def _scales(config: OptimConfig, depths: Mapping[str, int]) -> Callable[[Any], float]:
    """Returns a function that maps a variable to its learning-rate factor, by its kind and the depth of its layer."""

    @functools.cache
    def scale_of(path: str, name: str) -> float:
        scale = config.bias_lr_scale if name in _SHIFTS else 1.0
        depth = depths.get(path.split("/")[0])
        return scale if depth is None else scale * config.backbone_lr_scale * config.layer_decay**depth

    return lambda variable: scale_of(variable.path, variable.name)


class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up to the peak, then a decay to zero (or none) over the remaining steps.

    Args:
        peak: the highest learning rate.
        total_steps: optimizer steps of the whole schedule.
        warmup_steps: steps of the warm-up; 0 starts at the peak.
        decay: `linear` (with a warm-up, the one-cycle policy of Smith and Topin, arXiv:1708.07120, in its triangular
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
        """Returns the learning rate at `step` (an integer or integer tensor, from 0) as a float32 scalar tensor."""
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


def build_schedule(config: OptimConfig, steps_per_epoch: int, epochs: int, lr_scale: float = 1.0) -> WarmupDecay:
    """Builds the configured schedule for `epochs` epochs of `steps_per_epoch` optimizer steps."""
    return WarmupDecay(
        config.lr * lr_scale,
        total_steps=steps_per_epoch * epochs,
        warmup_steps=round(config.warmup_in(epochs) * steps_per_epoch),
        decay=_DECAYS[config.schedule],
    )
