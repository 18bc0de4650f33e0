"""The learning-rate range test: the loss while the learning rate grows from far too low to far too high.

Source: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017 (arXiv:1506.01186), section 3.3, with the
exponential growth and the smoothing of Gugger's implementation for fast.ai (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
from keras import ops

from kcv.config import Config, OptimConfig
from kcv.errors import DataError
from kcv.models.backbone import Backbone
from kcv.native.model import compile_classifier
from kcv.tracking import NoTracker
from kcv.training.callbacks.control import BestModel
from kcv.training.callbacks.logging import CSVLogger, ProgressLogger
from kcv.training.loop import Batches, StageFit, TrainingContext, plan
from kcv.training.optimizer import build_optimizer

_RANGES: Final = {"adamw": (1e-6, 1.0), "sgd": (1e-4, 100.0)}
"""The lowest and the highest learning rate of each optimizer: three decades around the usual ones."""

STEPS: Final = 100
_FEWEST: Final = 30
_MOST_PASSES: Final = 3
"""Small data are passed at most so often, but never fewer steps than `_FEWEST` are made."""

_SMOOTHING: Final = 0.9
_DIVERGED: Final = 4.0
"""The test ends where the smoothed loss is so many times the lowest one."""

_BELOW_LOWEST: Final = 10.0
"""The suggestion lies so far below the rate of the lowest loss."""


@dataclass(frozen=True)
class RangeTest:
    """The loss at growing learning rates.

    Attributes:
        rates: the learning rate of each step.
        losses: the training loss of each step, before its update.
        smoothed: the exponential average of the losses, without the bias of its beginning.
        suggestion: a tenth of the rate of the lowest smoothed loss: about the highest one that is still safe.
        steepest: the rate at which the smoothed loss falls fastest.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float
    steepest: float


def run(model: keras.Model, batches: Batches, config: Config, identity: Sequence[str]) -> RangeTest:
    """Trains a model at growing learning rates; its weights are of no use afterwards.

    What is trained is what the first stage of a run trains: the head alone where that begins with a frozen backbone.

    Args:
        model: uncompiled; it stays uncompiled.
        batches: the training batches.
        config: the configuration of the run.
        identity: see `kcv.training.features.FeatureStore`.

    Raises:
        DataError: the loss is not finite from the beginning, or never falls.
    """
    stage = plan(config)[0]
    context = TrainingContext(history=None, tracker=NoTracker(), save=lambda epoch: None)
    best = BestModel(model, config.train.monitor, context.save)
    steps_per_epoch = len(batches.train)
    progress = ProgressLogger(len(batches.train.images), steps_per_epoch, config.train.epochs)
    backbone = Backbone.of(model)
    stage_fit = StageFit(backbone, batches, config, context, best, CSVLogger(None), progress, identity)
    fitted, train, _ = stage_fit.prepare(stage)
    trained = stage_fit.train_model(fitted, compile_on_gpu=False)
    low, high = _RANGES[config.optim.name]
    steps = max(_FEWEST, min(STEPS, _MOST_PASSES * steps_per_epoch))
    optimizer = build_optimizer(
        config.optim,
        steps_per_epoch=steps_per_epoch,
        epochs=1,
        depths=backbone.depths(),
        schedule=ExponentialRise(low, high, steps),
    )
    compile_classifier(trained, optimizer)
    recorder = _Recorder(train, steps)
    train.set_epoch(0)
    trained.fit(train.loader(), epochs=-(-steps // steps_per_epoch), callbacks=[recorder], shuffle=False, verbose=0)
    return evaluate(rates_of(config.optim, len(recorder.losses), steps), recorder.losses)


class ExponentialRise(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that grows by the same factor in each step.

    Args:
        low: the rate of the first step.
        high: the rate of the last step.
        steps: number of steps.
    """

    def __init__(self, low: float, high: float, steps: int) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate at `step` (an integer or integer tensor, from 0) as a float32 scalar tensor."""
        share = ops.cast(step, "float32") / max(self.steps - 1, 1)
        return self.low * ops.exp(share * math.log(self.high / self.low))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"low": self.low, "high": self.high, "steps": self.steps}


def rates_of(config: OptimConfig, count: int, steps: int) -> list[float]:
    """Returns the learning rates of the first `count` of so many steps."""
    low, high = _RANGES[config.name]
    return [low * (high / low) ** (step / max(steps - 1, 1)) for step in range(count)]


def evaluate(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Smooths the losses and finds the suggestion.

    Args:
        rates: the learning rate of each step.
        losses: the loss of each step; the last ones may be huge or not finite.

    Raises:
        DataError: the loss is not finite from the beginning, or never falls.
    """
    smoothed: list[float] = []
    average = 0.0
    for step, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        smoothed.append(average / (1 - _SMOOTHING**step))
        if not math.isfinite(average) or (step > 10 and smoothed[-1] > _DIVERGED * min(smoothed)):
            break
    finite = [value for value in smoothed if math.isfinite(value)]
    if len(finite) < 10:
        raise DataError("the loss is not finite in the first steps, at the lowest learning rates: look at the images, "
                        "or use precision=float32.")  # fmt: skip
    lowest = int(np.argmin(finite))
    if lowest < 2:
        raise DataError("the loss never falls, so the range test suggests nothing: look at labels and images.")
    logs = np.log(np.asarray(rates[: lowest + 1]))
    slopes = np.gradient(np.asarray(finite[: lowest + 1]), logs)
    return RangeTest(
        rates=list(rates[: len(finite)]),
        losses=list(losses[: len(finite)]),
        smoothed=finite,
        suggestion=_rounded(rates[lowest] / _BELOW_LOWEST),
        steepest=_rounded(rates[int(np.argmin(slopes))]),
    )


def _rounded(rate: float) -> float:
    """Returns a rate with two digits: the test is no more exact than that."""
    return float(f"{rate:.1e}")


class _Recorder(keras.callbacks.Callback):
    """Keeps the loss of each step, and ends the training after the last one or once the loss is far too high.

    Args:
        train: the batches.
        steps: number of steps.

    Attributes:
        losses: one per step.
    """

    def __init__(self, train: Any, steps: int) -> None:
        super().__init__()
        self._train = train
        self._steps = steps
        self.losses: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the epoch of the batches."""
        self._train.set_epoch(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the loss of this step alone."""
        loss = float((logs or {})["loss"])
        self.model.reset_metrics()  # otherwise the next one would be the average of the epoch
        if len(self.losses) < self._steps:
            self.losses.append(loss)
        far = len(self.losses) > 10 and loss > 10 * _DIVERGED * min(self.losses)
        if len(self.losses) >= self._steps or not math.isfinite(loss) or far:
            self.model.stop_training = True
