"""What the caller of `kcv.train` passes besides a configuration: a model, callbacks, metrics, a tracker.

All of it is checked as far as possible before a run folder is created. The folder stores the names of what was passed,
for comparison only: nothing named in a folder is ever imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np

from kcv.common.text import printable, shortened
from kcv.config import Config
from kcv.errors import ConfigError, UsageError, first_line, nearest
from kcv.metrics.standing import higher_is_better
from kcv.tracking import Tracker
from kcv.training.callbacks.logging import COLUMNS, is_figure_name
from kcv.training.own_model import check_model, digest_of, with_model
from kcv.training.resume.user_state import check_state, keeps_state

MONITORS: Final = ("val_accuracy", "val_loss")
"""Metrics that can select the best weights when no metrics are passed."""

_LATER: Final = {"log_model", "log_datasets", "keeps_models"}
"""Members of `Tracker` that a tracker need not have."""


@dataclass(frozen=True)
class Extensions:
    """The objects that the caller passes.

    Attributes:
        model: a functional Keras model that replaces the configured one; None uses the configured one.
        callbacks: Keras callbacks.
        metrics: Keras metrics.
        tracker: replaces the configured tracker; None uses the configured one.
    """

    model: keras.Model | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    metrics: Sequence[keras.metrics.Metric] = ()
    tracker: Tracker | None = None

    @property
    def callback_names(self) -> list[str]:
        """The class names of the callbacks, in order."""
        return [type(callback).__name__ for callback in self.callbacks]

    @property
    def metric_names(self) -> list[str]:
        """The names of the metrics, in order."""
        return [metric.name for metric in self.metrics]

    @property
    def not_resumable(self) -> str | None:
        """Why a run with these extensions cannot be resumed bit for bit; None if it can."""
        without = dict.fromkeys(type(callback).__name__ for callback in self.callbacks if not keeps_state(callback))
        if not without:
            return None
        kept = "keep no state" if len(without) > 1 else "keeps no state"
        return f"not bit for bit: {', '.join(without)} {kept} (no state_dict and load_state_dict)"

    def check(self) -> None:
        """Refuses extensions that cannot be used for training.

        Raises:
            UsageError: names the unusable extension.
        """
        if self.model is not None:
            check_model(self.model)
        for callback in self.callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise UsageError(f"callbacks: received {_kind(callback)}, allowed: a keras.callbacks.Callback")
            if keeps_state(callback):
                check_state(callback)
        if len(set(map(id, self.callbacks))) < len(self.callbacks):
            raise UsageError("callbacks: the same one is there twice")
        self._check_metrics()
        if self.tracker is not None:
            members = set(_members(Tracker)) - _LATER  # which trackers of before do not have
            missing = [name for name in members if not hasattr(self.tracker, name)]
            if missing:
                raise UsageError(f"tracker: {_kind(self.tracker)} has no {missing[0]}; see kcv.tracking.Tracker")

    def described(self) -> dict[str, Any]:
        """Returns their fields in a run's record, from `own_model` to `resumable`."""
        return {
            "own_model": None if self.model is None else digest_of(self.model),
            "callbacks": self.callback_names,
            "metrics": self.metric_names,
            "resumable": self.not_resumable,
        }

    def fit_into(self, config: Config) -> Config:
        """Returns the configuration for these extensions: a model determines image size and precision.

        Raises:
            ConfigError: the configuration conflicts with the extensions.
        """
        self.check_monitor(config.train.monitor)
        return config if self.model is None else with_model(config, self.model)

    def _check_metrics(self) -> None:
        taken = {*COLUMNS}
        for metric in self.metrics:
            if not isinstance(metric, keras.metrics.Metric):
                raise UsageError(f"metrics: received {_kind(metric)}, allowed: a keras.metrics.Metric, not its name")
            name = metric.name
            if not is_figure_name(name) or name.startswith("val_"):
                shown = shortened(printable(repr(name)), 60)
                allowed = "letters, digits, spaces and . _ - / after a letter, without val_ before them"
                raise UsageError(f"metrics: the name {shown} is not allowed, but {allowed}")
            if {name, f"val_{name}"} & taken:
                raise UsageError(f"metrics: {name!r} is the name of another figure; name it otherwise (name=...)")
            taken |= {name, f"val_{name}"}

    def check_monitor(self, monitor: str) -> None:
        """Refuses a monitor that no metric provides, or one that does not say whether higher is better.

        Raises:
            ConfigError: names the monitor.
        """
        allowed = [*MONITORS, *(f"val_{name}" for name in self.metric_names)]
        if monitor not in allowed:
            hint = nearest(monitor, allowed)
            raise ConfigError([f"train.monitor: received {monitor!r}, allowed: {', '.join(allowed)}.{hint}"])
        if monitor not in MONITORS and self.higher_is_better(monitor) is None:
            name = monitor.removeprefix("val_")
            raise ConfigError(
                [f"train.monitor: {name} does not say whether higher is better; set its _direction to 'up' or 'down'."]
            )

    def higher_is_better(self, monitor: str) -> bool | None:
        """Returns whether a higher monitor is better, according to its metric or its name; None if neither says.

        Args:
            monitor: `val_` followed by the name of a metric.
        """
        if monitor in MONITORS:
            return higher_is_better(monitor)
        for metric in self.metrics:
            if monitor == f"val_{metric.name}" and (direction := getattr(metric, "_direction", None)) is not None:
                return bool(direction == "up")
        return True if higher_is_better(monitor) else None

    def try_metrics(self, num_classes: int, device: str) -> None:
        """Computes the metrics once on dummy inputs, as training will, and resets them.

        Args:
            num_classes: number of classes of the data.
            device: device of the run, to which the metrics are moved.

        Raises:
            UsageError: a metric cannot be computed, or does not return a single number.
        """
        targets = np.eye(num_classes, dtype=np.float32)
        for metric in self.metrics:
            for variable in metric.variables:  # Keras created them on its default device
                variable.value.data = variable.value.data.to(device)
            try:
                metric.update_state(targets, keras.ops.convert_to_tensor(3 * targets))
                size = int(keras.ops.size(metric.result()))
                metric.reset_state()
            except Exception as error:  # the caller's code may raise anything
                reason = printable(first_line(error))
                raise UsageError(
                    f"metrics: {metric.name} cannot be computed from one-hot targets and logits: {reason}"
                ) from error
            if size != 1:
                raise UsageError(f"metrics: {metric.name} gives {size} numbers, allowed: one")


def _kind(value: Any) -> str:
    what = value if isinstance(value, type) else type(value)
    return f"the class {printable(what.__name__)}" if isinstance(value, type) else f"a {printable(what.__name__)}"


def _members(protocol: type) -> list[str]:
    """Returns the names of a protocol's members."""
    return [name for name in {**protocol.__annotations__, **vars(protocol)} if not name.startswith("_")]
