"""Records runs in Weights & Biases, on its server or, with `WANDB_MODE=offline`, in files that `wandb sync` uploads.

Source: W&B documentation, "Python Library", `wandb.init` and `Run`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kcv.common.untrusted import read_bytes
from kcv.config import TrackingConfig
from kcv.errors import TrackingError, first_line
from kcv.tracking.buffered import BufferedTracker
from kcv.tracking.data_record import DataRecord
from kcv.tracking.store import RunInfo, Store, StoreRejected, StoreUnavailable
from kcv.tracking.tracker import Tracker, register_tracker

_log = logging.getLogger(__name__)

_SCHEME = "wandb"
_FORM = "wandb:PROJECT or wandb:TEAM/PROJECT"
_NAMES = re.compile(r"(?:([A-Za-z0-9._-]{1,100})/)?([^/\\#?%:,]{1,128})")
_START_SECONDS, _FINISH_SECONDS = 20.0, 25.0
_SERVER = re.compile(rb"(?im)^\s*(?:base_url|api_key|\w*prox\w*|insecure\w*)\s*=")
_MOST_SETTINGS_BYTES = 2**16
_PARENT = "mlflow.parentRunId"
EPOCH = "epoch"
"""The x axis of all other metrics. W&B's own step only grows, and the final metrics belong to an earlier epoch."""


@register_tracker(_SCHEME, form=_FORM)
def _open(config: TrackingConfig) -> Tracker:
    found = _NAMES.fullmatch(str(config.uri).partition(":")[2])
    if found is None:
        raise TrackingError(f"tracking.uri: received {config.uri!r}, allowed: {_FORM}.")
    if importlib.util.find_spec("wandb") is None:
        raise TrackingError("tracking.uri: wandb:PROJECT needs W&B's package: pip install 'kcv[wandb]'.")
    return BufferedTracker(WandbStore(found[2], found[1]), config.experiment)


class WandbStore(Store):
    """Implements `Store` for W&B's own client, which writes to `wandb/` in the working folder.

    Args:
        project: the project, which is created if it does not exist.
        entity: the user or team that it belongs to; None for the user's default.
    """

    def __init__(self, project: str, entity: str | None = None) -> None:
        self._project, self._entity = project, entity
        self.location = f"{_SCHEME}:{entity}/{project}" if entity else f"{_SCHEME}:{project}"
        self._runs: dict[str, Any] = {}
        self._last: dict[str, int] = {}  # the last epoch that the server holds of a resumed run
        self._is_online = True

    def prepare(self) -> None:
        """Imports W&B's client, and checks that it would ask for nothing.

        Raises:
            TrackingError: there is no key, or the working folder names a server.
        """
        _refuse_settings_of_the_folder()
        os.environ["WANDB_DISABLE_GIT"] = "true"  # its first step already asks git about the working folder
        os.environ.setdefault("WANDB_SILENT", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about W&B's dependencies, which a user cannot fix
            import wandb

            settings = wandb.setup().settings
        logging.getLogger("wandb").setLevel(logging.ERROR)
        self._is_online = settings.mode in ("online", "run", "shared")
        self.remote = self._is_online
        if self._is_online and not _has_key(settings):
            raise TrackingError(
                f"tracking.uri: {self.location} needs a key: `wandb login`, or WANDB_API_KEY; or WANDB_MODE=offline."
            )

    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        """Starts or resumes a run, whose ID follows from the key; see `Store.open_run`."""
        run_id = run_id or hashlib.sha256(key.encode()).hexdigest()[:16]
        if run_id not in self._runs:
            self._runs[run_id] = self._start(run_id, run)
        return run_id

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """Returns the epochs that the server holds; none without a server, which nobody can ask."""
        return set(range(1, self._last.get(run_id, 0) + 1))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Logs metrics of one epoch; those of CPU and memory are W&B's own."""
        values = {name: value for name, value in metrics.items() if not name.startswith("system/")}
        if values:
            with self._calling(run_id) as run:
                run.log({EPOCH: step, **values})

    def log_dataset(self, run_id: str, record: DataRecord) -> None:
        """Adds a data set to the configuration of the run."""
        with self._calling(run_id) as run:
            run.config.update({f"data_sets.{record.split}": record.entry()}, allow_val_change=True)

    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        """Adds a file to the files of the run."""
        base = path.parents[len(Path(folder).parts)] if folder else path.parent
        with self._calling(run_id) as run:
            run.save(_literal(path), base_path=str(base), policy="now")

    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        """Closes a run. What its server does not take in time stays in `wandb/`, and a line says so."""
        with self._calling(run_id) as run:
            place = run.dir
            try:
                run.finish(exit_code=0 if status == "FINISHED" else 1)
            except TimeoutError:
                folder = Path(place).parent
                _log.warning("tracking: %s did not take everything in time: wandb sync %s", self.location, folder)
        self._runs.pop(run_id, None)

    def _start(self, run_id: str, run: RunInfo | None) -> Any:
        import wandb

        wanted = {
            "console": "off",
            "disable_code": True,
            "disable_git": True,  # the working folder may be a stranger's
            "finish_timeout": _FINISH_SECONDS,
            "finish_timeout_raises": True,
            "init_timeout": _START_SECONDS,
            "silent": True,
            "symlink": False,  # a link would be dead where the files are taken to another machine to be uploaded
            "x_disable_meta": True,  # it would hold the command, with its credentials
        }
        about: dict[str, Any] = {}
        if run is not None:
            note = None if run.is_resumed else run.tags.get("note")
            kept = {name: value for name, value in run.tags.items() if name != "note"}
            config = {**{name: _typed(value) for name, value in run.params.items()}, "environment": kept}
            group = run.tags.get(_PARENT)
            about = {"name": run.name, "config": config, "notes": note, "tags": [run.experiment[:64]], "group": group}
        if self._is_online:
            about["resume"] = "allow"
        with _errors():
            known = wandb.Settings.model_fields  # older releases have fewer of them
            settings = wandb.Settings(**{name: value for name, value in wanted.items() if name in known})
            made = wandb.init(
                project=self._project,
                entity=self._entity,
                id=run_id,
                settings=settings,
                reinit="create_new",
                allow_val_change=True,
                **about,
            )
            made.define_metric(EPOCH, summary="max")
            made.define_metric("*", step_metric=EPOCH)
            if self._is_online and made.resumed:
                self._last[run_id] = _number(made.summary.get(EPOCH))
        return made

    @contextlib.contextmanager
    def _calling(self, run_id: str) -> Iterator[Any]:
        """Yields a run; after a fault it is started again by the next call, since W&B's process may have ended."""
        try:
            if run_id not in self._runs:
                self._runs[run_id] = self._start(run_id, None)
            with _errors():
                yield self._runs[run_id]
        except StoreUnavailable:
            self._runs.pop(run_id, None)
            raise


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turns the errors of W&B's client into StoreUnavailable or StoreRejected."""
    import wandb

    try:
        yield
    except (TypeError, ValueError) as error:
        raise StoreRejected(first_line(error), of_entry=True) from error
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        raise StoreRejected(first_line(error), of_entry=False) from error
    except Exception as error:  # of the network, of W&B's own process, or of the disk
        raise StoreUnavailable(first_line(error)) from error


def _refuse_settings_of_the_folder() -> None:
    """Refuses a server from `wandb/settings`: the working folder may be a stranger's, who would get the user's key."""
    for file in (Path(name, "settings") for name in ("wandb", ".wandb")):
        if not os.path.isfile(file) or "WANDB_BASE_URL" in os.environ:
            continue
        if _SERVER.search(read_bytes(file, _MOST_SETTINGS_BYTES, TrackingError)):
            raise TrackingError(f"tracking.uri: {file} names a server; if that is right, set WANDB_BASE_URL.")


def _has_key(settings: Any) -> bool:
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    import requests

    return bool(getattr(settings, "api_key", None) or requests.utils.get_netrc_auth(str(settings.base_url)))


def _literal(path: Path) -> str:
    """Returns a path for `Run.save`, which takes patterns."""
    return re.sub(r"([*?[])", r"[\1]", str(path))


def _number(value: Any) -> int:
    """Returns the largest epoch of a summary, which may be `{"max": 3}`."""
    found = value.get("max") if hasattr(value, "get") else value
    return int(found) if isinstance(found, int | float) and math.isfinite(found) else 0


def _typed(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
