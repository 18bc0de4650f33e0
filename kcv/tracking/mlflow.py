"""Records runs in MLflow: on a server, or in a database, by default `mlflow.db` in the working folder.

It uses MLflow's client, not its fluent API (global state, a subprocess for git) or its autologging (24 s for two
epochs, measured). The client is imported quietly, without retries, and with limits on the responses of a server: an
endless one would use up all memory.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from kcv.common.download import cache_dir
from kcv.common.files import home, sha256_of
from kcv.common.redaction import hide_credentials, without_credentials
from kcv.config import TrackingConfig
from kcv.errors import KcvError, TrackingError, causes, one_line
from kcv.tracking.buffered import BufferedTracker
from kcv.tracking.data_record import DataRecord
from kcv.tracking.mlflow_database import Database, plain_path
from kcv.tracking.mlflow_files import MOST_FILE_BYTES
from kcv.tracking.mlflow_records import ONCE, dataset_fields, reserved_tags
from kcv.tracking.store import RunInfo, Store, StoreRejected, StoreUnavailable
from kcv.tracking.tracker import Tracker, open_tracker, register_tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient


_T = TypeVar("_T")

_SERVERS = ("http", "https")
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", *_SERVERS, "databricks", "uc")
_FORM = "sqlite:///FILE, FILE.db, another database's uri, http(s)://HOST:PORT of an MLflow server"
_KEY_TAG = "kcv.spool"

MODEL_FOLDER = "model"
"""Folder in a run's artifacts with its model, as MLflow's tools expect it: `runs:/RUN_ID/model`."""
CHECKSUM = ".sha256"
"""Suffix of the file beside a model file with its SHA-256."""

_log = logging.getLogger(__name__)
_MAY_CHANGE = (401, 403, 407, 408, 429)
"""Status codes of rejections that may end later, or with other credentials."""


@register_tracker("", *_SCHEMES, form=_FORM, place=plain_path)
def _open(config: TrackingConfig) -> Tracker:
    if config.uri is None and (uri := os.environ.get("MLFLOW_TRACKING_URI")):
        return open_tracker(config.model_copy(update={"uri": uri}))
    return MlflowTracker(config.uri or "sqlite:///mlflow.db", config.experiment, named=config.uri is not None)


class MlflowTracker(BufferedTracker):
    """Records a run in MLflow.

    Args:
        uri: URI of the store; a `sqlite` path is made absolute.
        experiment: name of the experiment, which is created if it does not exist.
        named: whether the user named the store. Otherwise it is a file in the working folder, which may be untrusted;
            the files of a run are then stored only next to it.

    Raises:
        TrackingError: MLflow does not support stores with this URI.
    """

    def __init__(self, uri: str, experiment: str, *, named: bool = True) -> None:
        super().__init__(MlflowStore(uri, named=named), experiment)

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens or resumes the run, with the tags that MLflow's page shows as columns; see `Tracker.start`.

        Raises:
            TrackingError: the store rejects the run, or is an unusable database.
        """
        super().start(run_name, params, reserved_tags(tags))


class MlflowStore(Store):
    """Implements `Store` for MLflow; the arguments are those of `MlflowTracker`."""

    keeps_models = True

    def __init__(self, uri: str, *, named: bool = True) -> None:
        shown, scheme = without_credentials(uri), uri.partition(":")[0].partition("+")[0].lower()
        if uri != "databricks" and (":" not in uri or scheme not in _SCHEMES):
            raise TrackingError(f"tracking.uri: received {shown!r}, allowed: {_FORM}, or none.")
        self.remote = scheme in _SERVERS
        if self.remote and not _has_host(uri):
            raise TrackingError(f"tracking.uri: received {shown!r}, which names no host.")
        self.database = Database.of(uri, named=named) if scheme == "sqlite" else None
        if scheme == "sqlite" and self.database is None:
            raise TrackingError(f"tracking.uri: received {shown!r}, allowed: sqlite:/// and the path of a file.")
        self.location = self.database.location if self.database else shown
        self.tracking_uri = self.database.uri if self.database else uri  # may hold credentials
        self._client: MlflowClient | None = None
        self._places: dict[str, str] = {}  # artifact URIs by run ID

    def prepare(self) -> None:
        """Checks an SQLite file, and imports MLflow, which takes seconds and changes the process's warning filters."""
        if self.database and (problem := self.database.problem()):
            raise TrackingError(f"tracking.uri: {problem}.")
        import_mlflow()

    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        """Creates a run and its experiment, or finds the run by a tag, and describes it; see `Store.open_run`."""
        with self.asking() as client:
            if run_id is None:
                experiment = self._find_experiment(client, run.experiment)
                found = client.search_runs([experiment], f"tags.`{_KEY_TAG}` = '{key}'")
                once = {name: value for name, value in run.tags.items() if name in ONCE}
                tags = {"mlflow.source.name": "kcv", **once, _KEY_TAG: key}
                made = found[0] if found else client.create_run(experiment, run.time, tags, run.name)
                run_id = str(made.info.run_id)
            if run.is_resumed:
                if client.get_run(run_id).info.lifecycle_stage != "active":
                    raise StoreRejected(f"the run {run_id} is deleted there", of_entry=False)
                client.update_run(run_id, status="RUNNING")
            self._describe_run(client, run_id, run)
        return run_id

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """Returns the logged steps of a run's metric."""
        with self.asking() as client:
            return {point.step for point in client.get_metric_history(run_id, metric)}

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Logs metrics of one step; metrics already logged with this timestamp stay unchanged."""
        from mlflow.entities import Metric

        with self.asking() as client:
            for batch in _batches(Metric(name, value, timestamp, step) for name, value in metrics.items()):
                client.log_batch(run_id, batch)

    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        """Logs a file to a folder of the run's artifacts."""
        with self.asking() as client:
            self._require_place(client, run_id, *filter(None, (folder, path.name)))
            client.log_artifact(run_id, str(path), folder)

    def log_dataset(self, run_id: str, record: DataRecord) -> None:
        """Logs a data set of the run; MLflow keeps one with the same name and digest once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        made = DatasetInput(Dataset(**dataset_fields(record)), [InputTag(MLFLOW_DATASET_CONTEXT, record.split)])
        with self.asking() as client:
            client.log_inputs(run_id, [made])

    def log_model_file(self, run_id: str, content: Path | str, place: str) -> None:
        """Logs a file of the run's model, below `MODEL_FOLDER`; see `Store.log_model_file`.

        A file gets its SHA-256 beside it, in the form of `sha256sum`: MLflow keeps none.
        """
        texts = {place: content} if isinstance(content, str) else {}
        with self.asking() as client:
            self._require_place(client, run_id, MODEL_FOLDER, place)
            if isinstance(content, Path):
                client.log_artifact(run_id, str(content), str(PurePosixPath(MODEL_FOLDER, place).parent))
                texts[f"{place}{CHECKSUM}"] = f"{sha256_of(content)}  {content.name}\n"
            for name, text in texts.items():
                client.log_text(run_id, text, f"{MODEL_FOLDER}/{name}")

    def register_model(self, run_id: str, name: str, alias: str | None) -> None:
        """Registers the run's model; a run has one version of a registered model, also if this is called again."""
        from mlflow.exceptions import MlflowException

        with self.asking() as client:
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = [one for one in client.search_model_versions(f"run_id = '{run_id}'") if one.name == name]
            if not found:
                source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
                found = [client.create_model_version(name, source, run_id, await_creation_for=0)]
                _log.info("tracking: registered as version %s of %s", found[0].version, name)
            if alias is not None:
                client.set_registered_model_alias(name, alias, str(found[0].version))

    def _require_place(self, client: MlflowClient, run_id: str, *names: str) -> None:
        """Refuses to store a file elsewhere than beside a database that the user has not named."""
        if self.database is None or self.database.named:
            return
        if run_id not in self._places:
            self._places[run_id] = str(client.get_run(run_id).info.artifact_uri)
        if refusal := self.database.refusal(self._places[run_id], *names):
            raise StoreRejected(refusal, of_entry=True)

    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        """Closes a run."""
        with self.asking() as client:
            client.set_terminated(run_id, status, timestamp)

    @contextlib.contextmanager
    def asking(self) -> Iterator[MlflowClient]:
        """Yields the client, and turns its errors in the block into StoreUnavailable or StoreRejected."""
        try:
            if self._client is None:
                client_class = import_mlflow()
                with self.database.alone() if self.database else contextlib.nullcontext():
                    self._client = client_class(tracking_uri=self.tracking_uri)  # creates the tables
            yield self._client
        except (StoreUnavailable, StoreRejected, KcvError):
            raise
        except Exception as error:
            # MLflow does not catch the errors of SQLAlchemy, requests and alembic.
            raise classify_error(error, remote=self.remote) from error

    def _find_experiment(self, client: MlflowClient, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is None:
            # Next to the database, not in the working folder of the next command.
            place = (self.database.path.parent / "mlartifacts").as_uri() if self.database else None
            try:
                return str(client.create_experiment(name, artifact_location=place))
            except Exception:
                found = client.get_experiment_by_name(name)  # another process may have created it first
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise StoreRejected(f"the experiment {name!r} is deleted there", of_entry=False)
        if self.database is not None and (refusal := self.database.refusal(str(found.artifact_location))):
            raise StoreRejected(f"{refusal} ({name!r})", of_entry=False)
        return str(found.experiment_id)

    def _describe_run(self, client: MlflowClient, run_id: str, run: RunInfo) -> None:
        from mlflow.entities import Param, RunTag

        held = client.get_run(run_id).data  # a parameter cannot be changed, and a note may have been edited
        for params in _batches(Param(name, value) for name, value in run.params.items() if name not in held.params):
            client.log_batch(run_id, params=params)
        new = ((name, value) for name, value in run.tags.items() if name not in ONCE or name not in held.tags)
        for tags in _batches(RunTag(name, value) for name, value in new):
            client.log_batch(run_id, tags=tags)


def classify_error(error: Exception, *, remote: bool) -> StoreUnavailable | StoreRejected:
    """Classifies an error of MLflow's client: the store is unavailable, or it rejects the call.

    Args:
        error: the error of MLflow's client.
        remote: whether the store is an MLflow server and not a database.
    """
    import requests
    from mlflow.exceptions import MlflowException, RestException

    http = requests.exceptions
    broken_off = (http.ConnectionError, http.Timeout, http.ChunkedEncodingError, ConnectionError, TimeoutError)
    text = _told(error)
    for cause in causes(error):
        if isinstance(cause, EndlessAnswer):
            return StoreRejected(str(cause), of_entry=False)
        if isinstance(cause, http.SSLError) and "CERTIFICATE" in str(cause):
            return StoreRejected(text, of_entry=False)
        if isinstance(cause, http.HTTPError) and cause.response is not None:
            return _classify_status(cause.response.status_code, text)
        if isinstance(cause, http.RetryError):
            return StoreUnavailable("the server is not able to answer")
        if isinstance(cause, broken_off):
            return StoreUnavailable("no answer from the server")
    if isinstance(error, RestException) or (isinstance(error, MlflowException) and not remote):
        return _classify_status(int(error.get_http_status_code()), text)  # type: ignore[no-untyped-call]
    if isinstance(error, MlflowException):
        return StoreRejected(text, of_entry=False)  # not an MLflow response: a proxy, or another server
    if remote or isinstance(error, (ImportError, TypeError, ValueError)):
        return StoreRejected(text, of_entry=True)  # the store cannot change it
    return StoreUnavailable(text)


def _classify_status(status: int, text: str) -> StoreUnavailable | StoreRejected:
    if status >= 500 and status != 501:
        return StoreUnavailable(text)
    return StoreRejected(text, of_entry=status not in _MAY_CHANGE)


def _told(error: BaseException) -> str:
    """Returns the message of an error, in one line without credentials."""
    text = hide_credentials(one_line(error))
    return (text if len(text) <= 300 else f"{text[:297]}...").rstrip(".")


def _has_host(uri: str) -> bool:
    try:
        return bool(urlsplit(uri).hostname)
    except ValueError:  # brackets without an address
        return False


def _batches(values: Iterator[_T]) -> Iterator[list[_T]]:
    while batch := list(islice(values, 100)):  # the most parameters or tags per call
        yield batch


MOST_BYTES = 64 * 2**20
"""The most bytes of one response, unpacked; the longest that kcv requests, a metric's history, has some megabytes."""
MOST_SECONDS = 120.0
"""The most seconds for one response; the wait for its next byte has a separate limit."""
MOST_FILE_SECONDS = 3600.0
"""The most seconds for a file, which the client writes to disk as it comes."""
_ADAPTERS = ("TCPKeepAliveHTTPAdapter", "HTTPAdapter")
"""The class that MLflow's sessions send by: since 3.11, and before."""


class EndlessAnswer(Exception):
    """A server's response is longer than any response of MLflow."""


def import_mlflow() -> type[MlflowClient]:
    """Imports MLflow without telemetry, retries or messages on the terminal."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the default waits for minutes; kcv retries itself
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is reserved for results
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Files come from the server itself, not from wherever it sends the client for parts of them.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings(), _with_home():
        warnings.simplefilter("ignore")  # warnings about MLflow's dependencies, which a user cannot fix
        from mlflow import MlflowClient

    _bound_answers()
    # Later warnings occur on another thread, where `catch_warnings` would undo changes of other threads to the filters.
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)\b")
    for name in ("mlflow", "alembic"):  # both report every table of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


def _bound_answers() -> None:
    """Limits the responses that MLflow's client reads into memory, and the files that it streams to disk."""
    from mlflow.utils import request_utils

    name = next(name for name in _ADAPTERS if hasattr(request_utils, name))
    adapter: Any = getattr(request_utils, name)
    if getattr(adapter, "kcv_bounds", False):
        return

    class Bounding(adapter):  # type: ignore[misc]
        kcv_bounds = True

        def send(self, request: Any, stream: bool = False, *args: Any, **options: Any) -> Any:
            response = super().send(request, stream, *args, **options)
            most = (MOST_FILE_BYTES, MOST_FILE_SECONDS) if stream else (MOST_BYTES, MOST_SECONDS)
            response.raw.stream = functools.partial(_bounded, response.raw, response.raw.stream, *most)
            return response

    setattr(request_utils, name, Bounding)
    request_utils._cached_get_request_session.cache_clear()


def _bounded(
    raw: Any, stream: Any, most: int, seconds: float, amount: int = 2**16, decode_content: bool | None = None
) -> Iterator[bytes]:
    """Yields a response in pieces, as urllib3 does, up to a number of bytes and seconds."""
    received, end = 0, time.monotonic() + seconds
    for piece in stream(min(amount, 2**16), decode_content=decode_content):
        received += len(piece)
        if received > most or time.monotonic() > end:
            raw.close()
            raise EndlessAnswer(f"its answer is longer than {most >> 20} MB, or takes {seconds:.0f} s")
        yield piece


@contextlib.contextmanager
def _with_home() -> Iterator[None]:
    """Sets a home folder for a user without one while MLflow is imported, because the import needs it for paths."""
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
