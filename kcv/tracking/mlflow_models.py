"""Models in MLflow as files: finds what a reference means, downloads it into the cache, and says which version it is.

What comes is untrusted like any file: it is checked when it is opened. Here, a download is bounded, compared with the
size that the store tells and with the SHA-256 that kcv stores beside its own models, as MLflow has none.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kcv.common import model_cache
from kcv.common.files import sha256_of
from kcv.common.model_reference import ModelReference, is_in_mlflow
from kcv.common.text import printable, shortened
from kcv.common.untrusted import read_bytes
from kcv.errors import ArtifactError, TrackingError, causes, nearest
from kcv.tracking.mlflow import CHECKSUM, MlflowStore
from kcv.tracking.mlflow_files import Files, Listing, open_files
from kcv.tracking.store import StoreRejected, StoreUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_FOLDERS = ((), ("data",), ("artifacts",))
"""Where a model folder holds its files, in this order: kcv's and MLflow's Keras flavour use `data`."""
_SUFFIXES = (".keras", ".onnx")
_MOST_CHECKSUM = 4096  # bytes of a file with a checksum
_MOST_STEPS = 4  # from a version to its files: a version may be of a logged model, or of a path in a run
_MOST_SHOWN = 12
_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_PAUSES = (0.5, 2.0)
"""Seconds between attempts to reach a server."""
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""MLflow's codes of what does not exist; an alias that does not is an invalid parameter to it."""


@dataclass(frozen=True)
class _Found:
    """Where the files of a model are.

    Attributes:
        location: location of the files.
        path: path of the model below it, in parts.
        version: what it is called, such as `version 3 of digits`.
        label: name for a folder on this machine.
    """

    location: str
    path: tuple[str, ...]
    version: str
    label: str


def fetch_model(text: str, *, every: bool = False) -> Path:
    """Downloads a model from MLflow, or finds it in the cache; asks the store each time, as an alias may have moved.

    The store is the one in MLFLOW_TRACKING_URI, otherwise `mlflow.db` in the working folder.

    Args:
        text: a reference; see `ModelReference`.
        every: also download the ONNX file where there is a Keras file too; it is then beside it.

    Returns:
        The file, `model.keras` or `model.onnx`. Its folder is named after model and version.

    Raises:
        UsageError: the reference has another form.
        ArtifactError: there is no such model, version, alias or run, no model file in it, or the file is not the
            expected one.
        TrackingError: the store cannot be reached or used, or MLflow is not installed.
        OutputError: nothing can be written.
    """
    reference = ModelReference.parse(text)
    store = _Asked(_store(), text)
    found = store.ask(functools.partial(_find, reference=reference), missing=_absence(reference))
    if store.database is not None and not store.database.may_hold(found.location):
        raise ArtifactError(
            f"{text}: its files are in {printable(shortened(found.location))}, not beside {store.database.path.name}; "
            f"if that is right, name the store: MLFLOW_TRACKING_URI={store.location}"
        )
    files = store.ask(lambda _: open_files(found.location, store.tracking_uri, named=text))
    download = _Download(store, files, text, found.label)
    chosen = download.choose(found.path)
    _log.info("model      %s is %s, from %s", text, found.version, store.location)
    path = download.get(chosen[0])
    if every and len(chosen) > 1:
        download.get(chosen[1], beside=path)
    return path


def _store() -> MlflowStore:
    """Returns the store to ask.

    Raises:
        TrackingError: there is none.
    """
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    try:
        store = MlflowStore(os.environ[variable] if variable else "sqlite:///mlflow.db", named=variable is not None)
    except TrackingError as error:
        raise TrackingError(str(error).replace("tracking.uri", variable or "mlflow.db", 1)) from None
    if store.database is not None and not os.path.exists(store.database.path):
        where = "name a store: MLFLOW_TRACKING_URI=http://HOST:PORT or sqlite:///FILE"
        raise TrackingError(f"models: and runs: need an MLflow store, and there is no {store.database.path}; {where}")
    try:
        store.prepare()
    except TrackingError as error:
        raise TrackingError(str(error).removeprefix("tracking.uri: ")) from None
    except ModuleNotFoundError as error:
        raise TrackingError(f"models: and runs: need {error.name}: pip install mlflow.") from None
    return store


class _Asked:
    """A store that is asked a few times, and whose errors are one line each."""

    def __init__(self, store: MlflowStore, text: str) -> None:
        self._store = store
        self._text = text
        self.location = store.location
        self.tracking_uri = store.tracking_uri
        self.database = store.database

    def ask(self, call: Callable[[MlflowClient], _T], *, missing: Callable[[MlflowClient], str] | None = None) -> _T:
        """Returns the answer of a call.

        Args:
            call: what to ask.
            missing: returns in words what is missing where the store says that something does not exist.

        Raises:
            ArtifactError: something does not exist.
            TrackingError: the store does not answer, or rejects the call.
        """
        for pause in (*_PAUSES, None):
            try:
                with self._store.asking() as client:
                    return call(client)
            except StoreUnavailable as fault:
                if pause is None or not self._store.remote:
                    raise TrackingError(f"{self._text}: {self.location} cannot be reached: {fault}.") from fault
                time.sleep(pause)
            except StoreRejected as fault:
                if missing is not None and _is_missing(fault):
                    raise ArtifactError(f"{self._text}: {self.ask(missing)}") from None
                raise TrackingError(f"{self._text}: {self.location} refuses: {fault}.") from fault
        raise AssertionError


def _find(client: MlflowClient, reference: ModelReference) -> _Found:
    """Returns where the files of a model are."""
    asked = reference
    path: tuple[str, ...] = ()
    version = label = ""
    for _ in range(_MOST_STEPS):
        if reference.run_id is not None:
            location, path, title = _in_run(client, reference, path)
            told = f"the run {reference.run_id}"
        elif reference.model_id is not None:
            logged = client.get_logged_model(reference.model_id)
            location, title, told = (
                logged.artifact_location,
                f"{logged.name}-{reference.model_id[:10]}",
                "a logged model",
            )
        else:
            number = _number(client, reference)
            location = client.get_model_version_download_uri(str(reference.name), number)
            title, told = f"{reference.name}-{number}", f"version {number} of {reference.name}"
        version, label = version or printable(told), label or model_cache.label(str(title))
        if not is_in_mlflow(location):
            return _Found(str(location), path, version, label)
        reference = ModelReference.parse(str(location))
    raise ArtifactError(f"{asked.text}: leads from one model to another without end")


def _number(client: MlflowClient, reference: ModelReference) -> str:
    """Returns the number of the version that is meant."""
    name = str(reference.name)
    if reference.alias is not None:
        return str(client.get_model_version_by_alias(name, reference.alias).version)
    if reference.is_latest:
        found = client.get_registered_model(name).latest_versions
        if not found:
            raise ArtifactError(f"{reference.text}: the model has no version")
        return str(max(int(version.version) for version in found))
    return str(client.get_model_version(name, str(reference.version)).version)


def _in_run(
    client: MlflowClient, reference: ModelReference, inner: tuple[str, ...]
) -> tuple[str, tuple[str, ...], str]:
    """Returns the location of a run's files, or of those of its logged model with the name that the path begins with.

    MLflow 3 keeps what its `log_model` writes apart from the files of the run, and reads `runs:/ID/NAME` nevertheless.
    """
    run = client.get_run(str(reference.run_id))
    path = (*reference.path, *inner)
    title = reference.title if reference.title.startswith("run-") else f"{reference.title}-{run.info.run_id[:8]}"
    for logged in _logged_models(client, run.info.experiment_id, path[0]) if path else ():
        if logged.source_run_id == run.info.run_id:
            return str(logged.artifact_location), path[1:], title
    return str(run.info.artifact_uri), path, title


def _logged_models(client: MlflowClient, experiment: str, name: str) -> Iterable[Any]:
    """Returns the logged models of a name; none if the server knows no logged models, as before MLflow 3."""
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"[\w.-]+", name):
        return ()
    try:
        return client.search_logged_models(experiment_ids=[experiment], filter_string=f"name = '{name}'")
    except MlflowException as error:
        if error.error_code not in (*_MISSING, "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
            raise
        return ()


def _absence(reference: ModelReference) -> Callable[[MlflowClient], str]:
    """Returns a function that says in words what does not exist."""

    def tell(client: MlflowClient) -> str:
        if reference.name is None:
            return "there is no such run" if reference.run_id else "there is no such model"
        name = printable(reference.name)
        registered = _registered(client, reference.name)
        if registered is None:
            names = [str(model.name) for model in client.search_registered_models(max_results=100)]
            known = ", ".join(shortened(printable(each), 60) for each in names[:_MOST_SHOWN])
            return f"no model {name!r} is registered there; registered: {known or 'none'}.{nearest(name, names)}"
        if reference.alias is not None:
            aliases = sorted(map(str, registered.aliases))
            shown = ", ".join(shortened(printable(each), 60) for each in aliases[:_MOST_SHOWN])
            return (
                f"{name} has no alias {reference.alias!r}; it has {shown or 'none'}.{nearest(reference.alias, aliases)}"
            )
        newest = max((int(version.version) for version in registered.latest_versions), default=None)
        has = "no version" if newest is None else f"versions up to {newest}"
        return f"{name} has no version {reference.version}; it has {has}"

    return tell


def _registered(client: MlflowClient, name: str) -> Any:
    """Returns a registered model, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in _MISSING:
            raise
        return None


def _is_missing(fault: StoreRejected) -> bool:
    from mlflow.exceptions import MlflowException

    return any(isinstance(cause, MlflowException) and cause.error_code in _MISSING for cause in causes(fault))


class _Download:
    """Chooses the files of a model, and brings them into the cache."""

    def __init__(self, store: _Asked, files: Files, text: str, label: str) -> None:
        self._store, self._files, self._text, self._label = store, files, text, label
        self._sums: dict[tuple[str, ...], str] = {}
        self._sizes: dict[tuple[str, ...], int | None] = {}

    def choose(self, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Returns the paths of the model files: the Keras file first, then the ONNX file.

        Args:
            path: a file, or a folder with an `MLmodel` or a model file in it.

        Raises:
            ArtifactError: there is no file, or one of several must be named.
        """
        if path and path[-1].lower().endswith(_SUFFIXES):
            if path[-1] not in (listing := self._listed(path[:-1])).files:
                raise ArtifactError(f"{self._text}: there is no such file")
            self._note(path, listing)
            return [path]
        top = self._listed(path)
        for folder in _FOLDERS:
            if folder and folder[0] not in top.folders:
                continue
            listing = self._listed((*path, *folder)) if folder else top
            chosen = [(*path, *folder, name) for name in map(self._only, self._by_suffix(listing)) if name is not None]
            if chosen:
                for file in chosen:
                    self._note(file, listing)
                return chosen
        if not top.files and not top.folders:
            raise ArtifactError(f"{self._text}: there are no files")
        raise ArtifactError(f"{self._text}: holds no model of kcv (a .keras or .onnx file)")

    def get(self, path: tuple[str, ...], *, beside: Path | None = None) -> Path:
        """Returns a file in the cache, downloaded if it is not there.

        Args:
            path: one that `choose` has returned.
            beside: another file of the model, in whose folder it is to be; None for a folder of its own.
        """
        name = f"model{Path(path[-1]).suffix.lower()}"
        expected = self._sums.get(path)
        if expected is not None and (place := model_cache.cached(expected, self._label, name, beside=beside)):
            return place
        with model_cache.temporary() as folder:
            came = folder / name
            self._store.ask(lambda _: self._files.copy(came, *path))
            self._require_whole(path, came.stat().st_size, sha256_of(came))
            return model_cache.keep(came, self._label, name, beside=beside)

    def _require_whole(self, path: tuple[str, ...], size: int, digest: str) -> None:
        told, expected = self._sizes.get(path), self._sums.get(path)
        if told is not None and told != size:
            what = f"{size:,} of {told:,} bytes"
        elif expected is not None and expected != digest:
            what = "other content than was stored"
        else:
            return
        name = printable(shortened(path[-1]))
        raise ArtifactError(f"{self._text}: what came of {name} is not the expected file ({what})")

    def _listed(self, path: tuple[str, ...]) -> Listing:
        return self._store.ask(lambda _: self._files.listed(*path))

    def _note(self, path: tuple[str, ...], listing: Listing) -> None:
        """Notes the size of a file that was chosen, and its SHA-256 if it is stored beside it."""
        *folder, name = path
        self._sizes[path] = listing.files[name]
        if f"{name}{CHECKSUM}" not in listing.files:
            return
        with model_cache.temporary() as folder_of_it:
            place = folder_of_it / "checksum"
            self._store.ask(lambda _: self._files.copy(place, *folder, f"{name}{CHECKSUM}"))
            content = read_bytes(place, _MOST_CHECKSUM, ArtifactError)
        if found := re.match(rb"[0-9a-f]{64}(?=\s)", content):
            self._sums[path] = found[0].decode()

    @staticmethod
    def _by_suffix(listing: Listing) -> list[list[str]]:
        return [[name for name in listing.files if name.lower().endswith(suffix)] for suffix in _SUFFIXES]

    def _only(self, names: list[str]) -> str | None:
        """Returns the model file among those of a kind; None if there is none."""
        if not names:
            return None
        usual = [name for name in names if name in ("model.keras", "model.onnx")]
        if len(names) > 1 and not usual:
            shown = ", ".join(shortened(printable(name), 60) for name in sorted(names)[:_MOST_SHOWN])
            raise ArtifactError(f"{self._text}: holds several models; name one by runs:/RUN_ID/PATH: {shown}")
        return (usual or names)[0]
