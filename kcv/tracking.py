"""Where a run is written down: MLflow, or nowhere.

MLflow's client is used and neither its fluent API (global state, a subprocess for git) nor its autologging (24 s for
two epochs, measured): a run costs a few batched writes.
"""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast
from urllib.parse import urlsplit

from kcv.config import TrackingConfig
from kcv.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks", "uc")
_LONGEST_VALUE = 5000  # characters of a parameter or tag; every store takes as many


class Tracker(Protocol):
    """Takes down one run.

    Attributes:
        location: where a person finds the run, without credentials; None where nothing is kept.
    """

    location: str | None

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens the run. Raises TrackingError where the store cannot be used."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds numbers of one step (an epoch)."""

    def log_artifacts(self, path: Path) -> None:
        """Adds a file, or all files of a folder."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run."""


class NoTracker:
    """Keeps nothing (`--tracking=none`)."""

    location: str | None = None

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Does nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Does nothing."""

    def log_artifacts(self, path: Path) -> None:
        """Does nothing."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Does nothing."""


class MlflowTracker:
    """Writes a run to an MLflow store.

    A store that fails at the start is an error; one that fails later costs the rest of the record, never the training.

    Args:
        uri: of the store; a `sqlite` path is made absolute.
        experiment: is created where it does not exist.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri, self._folder = _resolve(uri)
        self._experiment = experiment
        self._client: MlflowClient | None = None
        self._run_id = ""
        self.location: str | None = _without_credentials(self._uri)

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens the run with its parameters.

        Raises:
            TrackingError: the store cannot be reached, is foreign, or refuses the run.
        """
        self._check_file()
        with _quiet():
            self._client = self._open(run_name, params, tags)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds numbers of one step in one write."""

        def write(client: MlflowClient) -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            client.log_batch(self._run_id, [Metric(name, float(value), now, step) for name, value in metrics.items()])

        self._attempt(write)

    def log_artifacts(self, path: Path) -> None:
        """Adds a file, or all files of a folder."""

        def write(client: MlflowClient) -> None:
            if path.is_dir():
                client.log_artifacts(self._run_id, str(path))
            else:
                client.log_artifact(self._run_id, str(path))

        self._attempt(write)

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run; doing so twice is harmless."""
        self._attempt(lambda client: client.set_terminated(self._run_id, status))
        self._client = None

    def _open(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> MlflowClient:
        client_class, param_class = _import_mlflow()
        try:
            client = client_class(tracking_uri=self._uri)
            tags = {"mlflow.source.name": "kcv", **_texts(tags)}
            run = client.create_run(self._find_experiment(client), run_name=run_name, tags=tags)
            self._run_id = run.info.run_id
            values = list(_texts(params).items())
            for first in range(0, len(values), 100):  # the most that one call may hold
                batch = [param_class(name, value) for name, value in values[first : first + 100]]
                client.log_batch(self._run_id, params=batch)
        except Exception as error:
            # MLflow lets through whatever SQLAlchemy, requests or alembic raise.
            raise TrackingError(
                f"tracking.uri: cannot use {self.location} as an MLflow store: {_one_line(error)}. "
                "Give another one, or --tracking=none."
            ) from error
        return cast("MlflowClient", client)

    def _check_file(self) -> None:
        if self._folder is None:
            return
        if not self._folder.is_dir():
            raise TrackingError(f"tracking.uri: the folder of {self.location} does not exist.")
        file = Path(self._uri.partition(":///")[2].partition("?")[0])
        try:
            content = b""
            if file.exists():
                with file.open("rb") as stream:
                    content = stream.read(16)
        except OSError as error:
            raise TrackingError(f"tracking.uri: {file} cannot be read: {error.strerror}.") from None
        # SQLite takes some small files of other kinds for an empty database, and overwrites them.
        if content and not content.startswith(b"SQLite format 3"):
            raise TrackingError(f"tracking.uri: {file} is not an SQLite database.")

    def _attempt(self, write: Callable[[MlflowClient], None]) -> None:
        if self._client is None:
            return
        try:
            with _quiet():
                write(self._client)
        except Exception as error:
            self._client = None
            _log.warning("tracking stopped, the training goes on: %s: %s", self.location, _one_line(error))

    def _find_experiment(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            if found.lifecycle_stage != "active":
                raise ValueError(f"the experiment {self._experiment!r} is deleted there")
            return str(found.experiment_id)
        # Beside the database, not in whatever folder the next command happens to run.
        place = (self._folder / "mlartifacts").as_uri() if self._folder else None
        return str(client.create_experiment(self._experiment, artifact_location=place))


def open_tracker(tracking: TrackingConfig) -> Tracker:
    """Returns the tracker that a configuration asks for. Nothing is written before its `start`.

    Without a `uri` it is the one in MLFLOW_TRACKING_URI, or else `mlflow.db` in the working folder.

    Raises:
        TrackingError: the uri is of no kind that MLflow keeps runs in.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    return NoTracker() if uri.lower() == "none" else MlflowTracker(uri, tracking.experiment)


def _resolve(uri: str) -> tuple[str, Path | None]:
    """Returns the uri, absolute where it is an SQLite file, and that file's folder."""
    scheme = uri.partition(":")[0].partition("+")[0].lower() if ":" in uri else ""
    if uri != "databricks" and scheme not in _SCHEMES:
        raise TrackingError(
            f"tracking.uri: received {_without_credentials(uri)!r}, allowed: sqlite:///FILE, another database's uri, "
            "http(s)://HOST:PORT of an MLflow server, or none."
        )
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise TrackingError(f"tracking.uri: received {uri!r}, which names no host.")
    if scheme != "sqlite":
        return uri, None
    match = re.fullmatch(r"(sqlite(?:\+\w+)?):///([^?]+)(\?.*)?", uri)
    if match is None:
        raise TrackingError(f"tracking.uri: received {uri!r}, allowed: sqlite:/// and the path of a file.")
    path = Path(match[2]).absolute()
    return f"{match[1]}:///{path}{match[3] or ''}", path.parent


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back the warnings of MLflow's own dependencies: a user can do nothing about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _import_mlflow() -> tuple[Any, Any]:
    """Imports MLflow: no telemetry, no minutes of retries, no chatter on the terminal."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its default waits for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # Imported here: MLflow takes seconds, and nobody waits for it who does not train.
    from mlflow import MlflowClient
    from mlflow.entities import Param

    for name in ("mlflow", "alembic"):  # both announce each table of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient, Param


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:_LONGEST_VALUE] for name, value in values.items()}


def _without_credentials(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


def _one_line(error: BaseException) -> str:
    text = _without_credentials(" ".join(str(error).split())) or type(error).__name__
    if "Max retries exceeded" in text:
        return "no answer from the server"
    return (text if len(text) <= 300 else f"{text[:297]}...").rstrip(".")
