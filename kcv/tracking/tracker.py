"""A run's record in MLflow, on a thread of its own: no training waits for it, or ends for it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kcv.common.download import cache_dir
from kcv.common.untrusted import files_inside
from kcv.errors import TrackingError
from kcv.tracking.courier import Courier
from kcv.tracking.delivery import now
from kcv.tracking.faults import Refused
from kcv.tracking.lines import Entry
from kcv.tracking.protocol import Status
from kcv.tracking.spool import Spool
from kcv.tracking.store import Store

_log = logging.getLogger(__name__)

START_SECONDS = 5.0
"""How long a start waits for a server, which may refuse the run."""
_LONGEST_VALUE = 5000  # characters of a parameter or tag; every store takes as many


class MlflowTracker:
    """Writes a run to an MLflow store, by way of a spool (see `kcv.tracking.spool`).

    A server that does not answer costs nothing: entries wait in the spool, which this run or the next one with this
    store delivers. What a store refuses at the start is an error, and so is a database that cannot be used then.

    Args:
        store: where to; a uri stands for the store there.
        experiment: is created where it does not exist.
    """

    def __init__(self, store: Store | str, experiment: str) -> None:
        self._store = Store(store) if isinstance(store, str) else store
        self._experiment = experiment
        self._spool: Spool | None = None
        self._courier: Courier | None = None
        self._ended = self._unwritable = False
        self._kept = True
        self._bytes = 0
        self.location: str | None = self._store.location

    @property
    def run_id(self) -> str | None:
        """Of the run in the store; None until it is known."""
        return self._spool.run_id if self._spool else None

    @property
    def spool(self) -> str | None:
        """The name that the run can be continued by as long as `run_id` is None."""
        return (self._spool.header["continues"] or self._spool.name) if self._spool else None

    def start(
        self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str], run_id: str | None = None
    ) -> None:
        """Opens the run, or goes on with one; see `Tracker.start`.

        Raises:
            TrackingError: the store refuses the run, or is a database that cannot be used.
        """
        if problem := self._store.check_file():
            raise TrackingError(f"tracking.uri: {problem}.")
        self._store.prepare()
        spooled = run_id is not None and run_id.startswith("spool-")
        self._spool = self._make_spool(
            {
                "kind": "run",
                "location": self.location,
                "experiment": self._experiment,
                "name": run_name,
                "params": _texts(params),
                "tags": _texts(tags),
                "time": now(),
                "run_id": None if spooled else run_id,
                "continues": run_id if spooled else None,
            }
        )
        self._courier = Courier(self._store, self._spool)
        self._courier.start()
        try:
            fault = self._courier.wait_for_answer(START_SECONDS if self._store.remote else None)
        except BaseException:  # the person is tired of waiting; the next run must not make a run of this
            self._ended = True
            self._courier.stop(discard=True)
            raise
        if fault is None:
            return
        if isinstance(fault, Refused) or not self._store.remote:
            self._ended = True
            self._courier.stop(discard=True)
            raise TrackingError(
                f"tracking.uri: cannot use {self.location} as an MLflow store: {fault}. "
                "Give another one, or --tracking=none."
            ) from fault
        _log.warning(
            "tracking: %s: %s; the training goes on, and its entries wait in %s", self.location, fault, self._spool.path
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds numbers of one step."""
        values = {name: float(value) for name, value in metrics.items()}
        self._append({"kind": "metrics", "values": values, "step": int(step), "time": now()})

    def log_artifacts(self, path: Path) -> None:
        """Adds a file, or all files of a folder."""
        path = Path(path).absolute()
        for file, folder in _files(path):
            with contextlib.suppress(OSError):  # what is not there by now is left out when its turn comes
                self._bytes += file.stat().st_size
            self._append({"kind": "artifact", "path": str(file), "folder": folder})

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run, and waits a bounded time for what is still on its way."""
        if self._spool is None or self._courier is None or self._ended:
            return
        self._append({"kind": "end", "status": status, "time": now()})
        self._ended = True
        self._spool.sync()  # the thread may be in a call that takes its time
        self._courier.wait_for_end(self._bytes)
        self._courier.stop(discard=not self._kept)
        if not self._kept:
            shutil.rmtree(self._spool.path.parent, ignore_errors=True)
        if count := self._spool.waiting:
            outlook = "the next run with this store delivers them" if self._kept else "they are lost"
            _log.warning("tracking: %d entries for %s wait in %s; %s", count, self.location, self._spool.path, outlook)

    def _make_spool(self, header: Entry) -> Spool:
        try:
            return Spool.create(cache_dir() / "tracking", header)
        except OSError as error:
            reason = error.strerror or error
        self._kept = False
        _log.warning("tracking: %s: %s; what the store has not taken when this run ends is lost", cache_dir(), reason)
        try:
            return Spool.create(Path(tempfile.mkdtemp(prefix="kcv-tracking-")), header)
        except OSError as error:
            raise TrackingError(f"tracking: no file can be written: {error.strerror or error}.") from None

    def _append(self, entry: Entry) -> None:
        if self._spool is None or self._ended:
            return
        try:
            self._spool.append(entry)
        except OSError as error:
            if not self._unwritable:
                reason = error.strerror or error
                _log.warning("tracking: %s: %s; the record will have gaps", self._spool.path, reason)
            self._unwritable = True
        if self._courier is not None:
            self._courier.tell()


def _files(path: Path) -> list[tuple[Path, str | None]]:
    """Returns a file, or all below a folder, each with the folder that it is in there.

    Of a folder neither links, which may lead to files that are no part of it, nor what is hidden: pieces that a killed
    process has left.
    """
    if not os.path.isdir(path):
        return [(path, None)]
    found = []
    for file in files_inside(path):
        within = file.relative_to(path)
        if not any(part.startswith(".") for part in within.parts):
            found.append((file, None if len(within.parts) == 1 else within.parent.as_posix()))
    return found


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:_LONGEST_VALUE] for name, value in values.items()}
