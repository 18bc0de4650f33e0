"""The interface of experiment trackers, and the choice of one or several by a configuration."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kcv.common.redaction import data_without_credentials, without_credentials
from kcv.config import Config, TrackingConfig
from kcv.errors import TrackingError
from kcv.tracking.data_record import DataRecord

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]
State: TypeAlias = dict[str, str | None]


class Tracker:
    """Base class of trackers, which records nothing. A subclass overrides the methods that it needs.

    No method may delay a training, or raise after `start` has returned. A tracker for a service should be a
    `BufferedTracker`, which ensures this.

    Attributes:
        location: location of the run for users, without credentials; None if nothing is recorded.
        keeps_models: whether it keeps models as such, and can register them.
    """

    location: str | None = None
    keeps_models: bool = False

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens a run, or resumes the run of `load_state_dict`.

        Args:
            run_name: name of a new run.
            params: parameters of the run; existing values stay unchanged.
            tags: tags of the run; new values replace existing ones. `note` is a line for people.

        Raises:
            TrackingError: the run cannot be recorded as asked.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics of one step (an epoch)."""

    def log_artifacts(self, path: Path) -> None:
        """Logs a file, or all files of a folder."""

    def log_datasets(self, records: Sequence[DataRecord]) -> None:
        """Logs which data the run uses; called after `start`, also when a run is resumed."""

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
Place: TypeAlias = Callable[[str], str | None]
_factories: dict[str, Factory] = {}
_forms: list[str] = []
_places: dict[str, Place] = {}
_DATABASE = re.compile(r"([A-Za-z]:[\\/])?[^:,]+\.db")
"""A path in place of the URI of an SQLite file."""


def register_tracker(*schemes: str, form: str, place: Place | None = None) -> Callable[[Factory], Factory]:
    """Registers a function as the factory of trackers for some URIs. All files in `kcv/tracking` are imported for it.

    Args:
        schemes: the part of `tracking.uri` before the colon (or the plus); "" for a configuration without a URI.
        form: the format of such a URI, for messages.
        place: returns the path that a URI writes to, or None if it may write elsewhere; None for a service. Where a run
            folder of a stranger names such a path, it must be inside the working folder.

    Example:
        >>> @register_tracker("board", form="board:PROJECT")
        ... def open_board(config):
        ...     return BufferedTracker(BoardStore(config.uri), config.experiment)
    """

    def register(factory: Factory) -> Factory:
        _factories.update(dict.fromkeys(schemes, factory))
        _forms.append(form)
        if place is not None:
            _places.update(dict.fromkeys(schemes, place))
        return factory

    return register


def split_uris(text: str) -> list[str]:
    """Returns the URIs of `tracking.uri`, which a comma separates.

    In an address (`//`), a comma separates only before the scheme of a tracker, since passwords and paths may hold one.

    Example:
        >>> split_uris("mlflow.db,tensorboard:logs"), split_uris("sqlite:////data/a,b/mlflow.db")
        (['sqlite:///mlflow.db', 'tensorboard:logs'], ['sqlite:////data/a,b/mlflow.db'])
    """
    _discover()
    found: list[str] = []
    for piece in text.split(","):
        if found and "//" in found[-1] and not (":" in piece and _scheme(piece.strip()) in _factories):
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    if len(found) > 1:
        found = [uri.strip() for uri in found]
    return [f"sqlite:///{uri}" if _DATABASE.fullmatch(uri) else uri for uri in found]


def open_tracker(config: TrackingConfig) -> Tracker:
    """Returns the tracker of a configuration, or one for all that it names. Nothing is recorded before its `start`.

    Raises:
        TrackingError: no tracker supports a URI, the package of one is missing, or one is there twice; a model is to be
            registered and no tracker keeps models.
    """
    uris = split_uris(config.uri) if config.uri else [""]
    tracker = _several(config, uris) if len(uris) > 1 else _open_one(_with_uri(config, uris[0] or None))
    if config.register is not None and not (tracker.keeps_models or isinstance(tracker, NoTracker)):
        raise TrackingError(f"tracking.register: needs MLflow, and {tracker.location} keeps no models.")
    return tracker


def _several(config: TrackingConfig, uris: Sequence[str]) -> Tracker:
    if any(uri.lower() in ("", "none") for uri in uris):
        raise TrackingError("tracking.uri: received an empty name or none in a list, allowed: the trackers to use.")
    from kcv.tracking.several import SeveralTrackers

    trackers = [_open_one(_with_uri(config, uri)) for uri in uris]
    locations = [tracker.location for tracker in trackers]
    if twice := next((place for place in locations if locations.count(place) > 1), None):
        raise TrackingError(f"tracking.uri: {twice} is there twice.")
    return SeveralTrackers(trackers)


def _with_uri(config: TrackingConfig, uri: str | None) -> TrackingConfig:
    return config.model_copy(update={"uri": uri})


def _open_one(config: TrackingConfig) -> Tracker:
    uri = config.uri or ""
    if uri.lower() == "none":
        return NoTracker()
    _discover()
    factory = _factories.get(_scheme(uri))
    if factory is None:
        allowed = ", ".join([*_forms, "none"])
        raise TrackingError(f"tracking.uri: received {without_credentials(uri)!r}, allowed: {allowed}.")
    return factory(config)


def _discover() -> None:
    """Imports all modules of this package, each of which registers its trackers."""
    package = sys.modules[__name__.rpartition(".")[0]]
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0].lower()


def stays_inside(uri: str, folder: Path) -> bool:
    """Returns whether all trackers of a `tracking.uri` are plain files below a folder, or `none`."""
    return all(_stays_inside(one, folder) for one in split_uris(uri))


def _stays_inside(uri: str, folder: Path) -> bool:
    if uri.lower() == "none":
        return True
    place = _places.get(_scheme(uri))
    path = place(uri) if place is not None else None
    if path is None:
        return False
    root = folder.resolve()
    try:
        parts = (root / path).resolve().relative_to(root).parts
        return not any(part.startswith(".") for part in parts)
    except (OSError, ValueError, RuntimeError):  # it is outside the folder, or the links are circular
        return False


def uri_without_credentials(text: str) -> str:
    """Returns `tracking.uri` without users, passwords and tokens; see `kcv.common.redaction.without_credentials`."""
    if "," not in text:
        return without_credentials(text)
    return ",".join(without_credentials(uri) for uri in split_uris(text))


def run_in(state: Mapping[str, str | None], location: str | None) -> str | None:
    """Returns what a `state_dict`, of one tracker or several, holds of the run at a location."""
    return state.get("run") if state.get("location") == location else state.get(location or "")


def config_without_credentials(config: Config) -> Config:
    """Returns a configuration without users, passwords and tokens in its store and data, so that it can be stored."""
    source, uri = config.data.source, config.tracking.uri
    changed = {
        "data": config.data.model_copy(update={"source": data_without_credentials(source)}),
        "tracking": config.tracking.model_copy(update={"uri": None if uri is None else uri_without_credentials(uri)}),
    }
    return config.model_copy(update=changed)
