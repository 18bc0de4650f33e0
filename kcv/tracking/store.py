"""An MLflow store: what kcv asks of one.

MLflow's client is used and neither its fluent API (global state, a subprocess for git) nor its autologging (24 s for
two epochs, measured). Whatever goes wrong is told as one of two: `NoAnswer`, ask again, or `Refused`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kcv.common.download import cache_dir
from kcv.common.files import home
from kcv.common.redaction import without_credentials
from kcv.errors import TrackingError
from kcv.tracking.answers import bound
from kcv.tracking.database import Database
from kcv.tracking.faults import NoAnswer, Refused, judge
from kcv.tracking.uri import is_file, is_server, require_known

if TYPE_CHECKING:
    from mlflow import MlflowClient

_T = TypeVar("_T")
_SPOOL_TAG = "kcv.spool"


class Store:
    """A place that keeps runs.

    All methods but the first two raise NoAnswer or Refused.

    Args:
        uri: of the store; a `sqlite` path is made absolute.
        named: a person has named it. Else it is what lies in the working folder, which may be a stranger's: then
            files of a run go nowhere but beside it.

    Attributes:
        location: the uri without credentials.
        remote: an MLflow server, which may come and go.

    Raises:
        TrackingError: the uri is of no kind that MLflow keeps runs in.
    """

    def __init__(self, uri: str, *, named: bool = True) -> None:
        require_known(uri)
        self._database = Database.of(uri, named=named) if is_file(uri) else None
        if is_file(uri) and self._database is None:
            shown = without_credentials(uri)
            raise TrackingError(f"tracking.uri: received {shown!r}, allowed: sqlite:/// and the path of a file.")
        self._uri = self._database.uri if self._database else uri
        self._lazy_client: MlflowClient | None = None
        self._places: dict[str, str] = {}  # of the files of runs
        self.location = self._database.location if self._database else without_credentials(uri)
        self.remote = is_server(uri)

    def prepare(self) -> None:
        """Imports MLflow, which takes seconds; on the main thread, because it changes the process' warning filters."""
        import_mlflow()

    def check_file(self) -> str | None:
        """Returns what is wrong with the file of an SQLite store, or None; touches no other store."""
        return self._database.problem() if self._database else None

    def create_run(self, experiment: str, name: str, start_time: int, spool: str) -> str:
        """Makes a run that `find_run` finds by its spool; the experiment too where it is missing. Returns its id."""
        with self._judging() as client:
            place = self._find_experiment(client, experiment)
            tags = {"mlflow.source.name": "kcv", _SPOOL_TAG: spool}
            return str(client.create_run(place, start_time=start_time, run_name=name, tags=tags).info.run_id)

    def find_run(self, experiment: str, spool: str) -> str | None:
        """Returns the id of the run that was made for a spool, or None."""
        with self._judging() as client:
            found = client.search_runs([self._find_experiment(client, experiment)], f"tags.`{_SPOOL_TAG}` = '{spool}'")
            return str(found[0].info.run_id) if found else None

    def describe_run(self, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Adds parameters that the run does not have yet, and tags."""
        from mlflow.entities import Param, RunTag

        with self._judging() as client:
            held = client.get_run(run_id).data.params  # a parameter cannot be changed
            new = (Param(name, value) for name, value in params.items() if name not in held)
            for batch in _batches(new):
                client.log_batch(run_id, params=batch)
            for tagged in _batches(RunTag(name, value) for name, value in tags.items()):
                client.log_batch(run_id, tags=tagged)

    def reopen_run(self, run_id: str) -> None:
        """Sets a run running again."""
        with self._judging() as client:
            if client.get_run(run_id).info.lifecycle_stage != "active":
                raise Refused(f"the run {run_id} is deleted there", of_entry=False)
            client.update_run(run_id, status="RUNNING")

    def steps(self, run_id: str, metric: str) -> set[int]:
        """Returns the steps of a metric that a run holds."""
        with self._judging() as client:
            return {point.step for point in client.get_metric_history(run_id, metric)}

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Adds numbers of one step; those that it has, with this time, stay as they are."""
        from mlflow.entities import Metric

        with self._judging() as client:
            for batch in _batches(Metric(name, value, timestamp, step) for name, value in metrics.items()):
                client.log_batch(run_id, batch)

    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        """Adds a file, in a folder of the run's artifacts."""
        with self._judging() as client:
            if self._database is not None and not self._database.named:
                if run_id not in self._places:
                    self._places[run_id] = str(client.get_run(run_id).info.artifact_uri)
                if refusal := self._database.refusal(self._places[run_id], *filter(None, (folder, path.name))):
                    raise Refused(refusal, of_entry=True)
            client.log_artifact(run_id, str(path), folder)

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Closes a run."""
        with self._judging() as client:
            client.set_terminated(run_id, status, end_time)

    @contextlib.contextmanager
    def _judging(self) -> Iterator[MlflowClient]:
        try:
            if self._lazy_client is None:
                client_class = import_mlflow()
                with self._database.alone() if self._database else contextlib.nullcontext():
                    self._lazy_client = client_class(tracking_uri=self._uri)  # makes the tables
            yield self._lazy_client
        except (NoAnswer, Refused):
            raise
        except Exception as error:
            # MLflow lets through whatever SQLAlchemy, requests or alembic raise.
            raise judge(error, remote=self.remote) from error

    def _find_experiment(self, client: MlflowClient, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is None:
            # Beside the database, not in whatever folder the next command happens to run.
            place = (self._database.path.parent / "mlartifacts").as_uri() if self._database else None
            try:
                return str(client.create_experiment(name, artifact_location=place))
            except Exception:
                found = client.get_experiment_by_name(name)  # another process may have been faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise Refused(f"the experiment {name!r} is deleted there", of_entry=False)
        if self._database is not None and (refusal := self._database.refusal(str(found.artifact_location))):
            raise Refused(f"{refusal} ({name!r})", of_entry=False)
        return str(found.experiment_id)


def import_mlflow() -> type[MlflowClient]:
    """Imports MLflow: no telemetry, no retries of its own, no chatter on the terminal."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # its default waits for minutes, and kcv asks again
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings(), _with_home():
        warnings.simplefilter("ignore")  # of MLflow's own dependencies: a user can do nothing about them
        from mlflow import MlflowClient

    bound()
    # Later ones come on another thread, where `catch_warnings` would undo what other threads do to the filters.
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)\b")
    for name in ("mlflow", "alembic"):  # both announce each table of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


@contextlib.contextmanager
def _with_home() -> Iterator[None]:
    """Gives a user without a home one while MLflow is imported, which asks where it would keep things there."""
    if home() is not None:
        yield
        return
    name = "USERPROFILE" if os.name == "nt" else "HOME"
    before = os.environ.get(name)
    os.environ[name] = str(cache_dir())
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _batches(values: Iterator[_T]) -> Iterator[list[_T]]:
    while batch := list(islice(values, 100)):  # the most parameters or tags that one call may hold
        yield batch
