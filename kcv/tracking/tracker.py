"""The interface of experiment trackers, and which of them a configuration asks for."""

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
    """Records one run, and keeps nothing: a tracker overrides what it records.

    None of its methods may make a training wait, or raise once `start` has returned: a tracker of a service is best a
    `BufferedTracker`, which sees to that.

    Attributes:
        location: where a person finds the run, without credentials; None where nothing is kept.
    """

    location: str | None = None

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens a run, or goes on with the one of `load_state_dict`.

        Args:
            run_name: of a new run.
            params: of the run; where it has values already, those stay.
            tags: of the run; new values replace old ones.

        Raises:
            TrackingError: the run cannot be recorded as asked.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds numbers of one step (an epoch)."""

    def log_artifacts(self, path: Path) -> None:
        """Adds a file, or all files of a folder."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run; doing so twice is harmless."""

    def state_dict(self) -> State:
        """Returns what another process needs to go on with the run; asked once `start` has returned."""
        return {"location": self.location, "run": None}

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        """Makes `start` go on with the run of a `state_dict`, so that steps that it holds are not recorded twice.

        The state comes from a run folder, which may be a stranger's: what does not belong to this tracker is ignored.
        """


class NoTracker(Tracker):
    """Keeps nothing (`--tracking=none`)."""


Factory: TypeAlias = Callable[[TrackingConfig], Tracker]
_factories: dict[str, Factory] = {}
_forms: list[str] = []


def register_tracker(*schemes: str, form: str) -> Callable[[Factory], Factory]:
    """Has a function make the trackers of some uris. A file of `kcv/tracking` that does so needs no other mention.

    Args:
        schemes: what stands before the colon (or the plus) of `tracking.uri`; "" where a configuration has none.
        form: how such a uri is written, for messages.

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
    """Returns the tracker that a configuration asks for. Nothing is recorded before its `start`.

    Raises:
        TrackingError: its uri is of no kind that is known.
    """
    uri = config.uri or ""
    if uri.lower() == "none":
        return NoTracker()
    package = sys.modules[__name__.rpartition(".")[0]]
    for module in pkgutil.iter_modules(package.__path__):  # each registers what it has
        importlib.import_module(f"{package.__name__}.{module.name}")
    factory = _factories.get(uri.partition(":")[0].partition("+")[0].lower())
    if factory is None:
        allowed = ", ".join([*_forms, "none"])
        raise TrackingError(f"tracking.uri: received {without_credentials(uri)!r}, allowed: {allowed}.")
    return factory(config)


def config_without_credentials(config: Config) -> Config:
    """Returns a configuration as it may be written down: no user, password or token in its store and its data."""
    source, uri = config.data.source, config.tracking.uri
    changed = {
        "data": config.data.model_copy(update={"source": data_without_credentials(source)}),
        "tracking": config.tracking.model_copy(update={"uri": None if uri is None else without_credentials(uri)}),
    }
    return config.model_copy(update=changed)
