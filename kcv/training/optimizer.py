"""The optimizer of a run, from its configuration."""

from __future__ import annotations

import keras

from kcv.config import OptimConfig
from kcv.native.optimizers import FusedAdamW, FusedSGD
from kcv.training.schedules import build_schedule

_NOT_DECAYED = ["bias", "beta", "gamma"]
"""Variables that are shifts and scales: pulling them to zero would only undo what normalisation learns."""


_SHIFTS = ["bias", "beta"]


def build_optimizer(
    config: OptimConfig, *, steps_per_epoch: int, epochs: int, ema: float | None
) -> keras.optimizers.Optimizer:
    """Builds the optimizer with its learning rate schedule.

    Args:
        config: rate, decay and schedule.
        steps_per_epoch: optimizer steps of an epoch.
        epochs: epochs of the run.
        ema: decay of the moving average of the weights, or None for none.
    """
    common = {
        "learning_rate": build_schedule(config, steps_per_epoch, epochs),
        "weight_decay": config.weight_decay,
        "use_ema": ema is not None,
        "ema_momentum": ema if ema is not None else 0.99,
    }
    if config.name == "sgd":
        optimizer = FusedSGD(momentum=config.momentum, nesterov=config.momentum > 0, **common)
    else:
        optimizer = FusedAdamW(**common)
    optimizer.scale_learning_rate(_SHIFTS, config.bias_lr_scale)
    optimizer.exclude_from_weight_decay(var_names=_NOT_DECAYED)
    return optimizer
