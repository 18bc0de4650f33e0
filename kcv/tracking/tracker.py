"""The interface of experiment trackers, and the choice of one by a configuration."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kcv.common.redaction import data_without_credentials, without_credentials
from kcv.config import Config, TrackingConfig
from kcv.errors import TrackingError

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]
State: TypeAlias = dict[str, str | None]


class Tracker:
    """Base class of trackers, which records nothing. A subclass overrides the methods that it needs.

    No method may delay a training, or raise after `start` has returned. A tracker for a service should be a
    `BufferedTracker`, which ensures this.

    Attributes:
        location: location of the run for users, without credentials; None if nothing is recorded.
    """

    location: str | None = None

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens a run, or resumes the run of `load_state_dict`.

        Args:
            run_name: name of a new run.
            params: parameters of the run; existing values stay unchanged.
            tags: tags of the run; new values replace existing ones.

        Raises:
            TrackingError: the run cannot be recorded as asked.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics of one step (an epoch)."""

    def log_artifacts(self, path: Path) -> None:
        """Logs a file, or all files of a folder."""

    def log_model(
        self, files: Mapping[str, Path | str], *, register: str | None = None, alias: str | None = None
    ) -> None:
        """Logs the finished model in the form that MLflow's own tools open.

        Args:
            files: files by their path in the folder of the model: a path, or the text of a file. A path is sent with
                its content at the time of sending.
            register: name of a registered model of which it becomes a version; None for none.
            alias: alias that is moved to this version.
        """

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run; calling it twice is harmless."""

    def state_dict(self) -> State:
        """Returns the state with which another process can resume the run; called after `start` has returned."""
        return {"location": self.location, "run": None}

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        """Makes `start` resume the run of a `state_dict`, so that its steps are not recorded twice.

        The state comes from a run folder, which may be untrusted. A state of another tracker is ignored.
        """


class NoTracker(Tracker):
    """Records nothing (`--tracking=none`)."""


Factory: TypeAlias = Callable[[TrackingConfig], Tracker]
_factories: dict[str, Factory] = {}
_forms: list[str] = []


def register_tracker(*schemes: str, form: str) -> Callable[[Factory], Factory]:
    """Registers a function as the factory of trackers for some URIs. All files in `kcv/tracking` are imported for it.

    Args:
        schemes: the part of `tracking.uri` before the colon (or the plus); "" for a configuration without a URI.
        form: the format of such a URI, for messages.

    Example:
        >>> @register_tracker("wandb", form="wandb:PROJECT")
        ... def open_wandb(config):
        ...     return BufferedTracker(WandbStore(config.uri), config.experiment)
    """

    def register(factory: Factory) -> Factory:
        _factories.update(dict.fromkeys(schemes, factory))
        _forms.append(form)
        return factory

    return register


def open_tracker(config: TrackingConfig) -> Tracker:
    """Returns the tracker of a configuration. Nothing is recorded before its `start`.

    Raises:
        TrackingError: no tracker supports its URI.
    """
    uri = config.uri or ""
    if uri.lower() == "none":
        return NoTracker()
    package = sys.modules[__name__.rpartition(".")[0]]
    for module in pkgutil.iter_modules(package.__path__):  # each module registers its trackers
        importlib.import_module(f"{package.__name__}.{module.name}")
    factory = _factories.get(uri.partition(":")[0].partition("+")[0].lower())
    if factory is None:
        allowed = ", ".join([*_forms, "none"])
        raise TrackingError(f"tracking.uri: received {without_credentials(uri)!r}, allowed: {allowed}.")
    return factory(config)


def config_without_credentials(config: Config) -> Config:
    """Returns a configuration without users, passwords and tokens in its store and data, so that it can be stored."""
    source, uri = config.data.source, config.tracking.uri
    changed = {
        "data": config.data.model_copy(update={"source": data_without_credentials(source)}),
        "tracking": config.tracking.model_copy(update={"uri": None if uri is None else without_credentials(uri)}),
    }
    return config.model_copy(update=changed)
