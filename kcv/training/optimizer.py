"""The optimizer of a run, from its configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kcv.config import OptimConfig
from kcv.native.optimizers import FusedAdamW, FusedSGD
from kcv.training.schedules import build_schedule

_NOT_DECAYED = ["bias", "beta", "gamma"]
"""Variables that are shifts and scales: pulling them to zero would only undo what normalisation learns."""

_SHIFTS = ("bias", "beta")


def build_optimizer(
    config: OptimConfig, *, steps_per_epoch: int, epochs: int, ema: float | None, depths: Mapping[str, int]
) -> keras.optimizers.Optimizer:
    """Builds the optimizer with its learning rate schedule.

    Args:
        config: rate, decay and schedule.
        steps_per_epoch: optimizer steps of an epoch.
        epochs: epochs of the run.
        ema: decay of the moving average of the weights, or None for none.
        depths: of the backbone's layers, as `kcv.models.backbone.Backbone.depths` gives them.
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
    optimizer.scale_learning_rate(_factors(config, depths))
    optimizer.exclude_from_weight_decay(var_names=_NOT_DECAYED)
    return optimizer


def _factors(config: OptimConfig, depths: Mapping[str, int]) -> Callable[[Any], float]:
    """Returns the learning rate of a variable over the peak: by its kind, and by how deep its layer lies."""

    @functools.cache
    def factor(path: str, name: str) -> float:
        scale = config.bias_lr_scale if name in _SHIFTS else 1.0
        depth = depths.get(path.split("/")[0])
        return scale if depth is None else scale * config.backbone_lr_scale * config.layer_decay**depth

    return lambda variable: factor(variable.path, variable.name)
