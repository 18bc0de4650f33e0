"""A tracker for a service that may be unavailable, without delaying or stopping the training."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kcv.common.download import cache_dir
from kcv.common.untrusted import files_inside
from kcv.errors import TrackingError
from kcv.tracking.data_record import DataRecord
from kcv.tracking.outbox import Entry, Outbox
from kcv.tracking.sender import Sender
from kcv.tracking.store import RunInfo, Store, StoreRejected
from kcv.tracking.tracker import State, Status, Tracker, run_in

_log = logging.getLogger(__name__)

START_SECONDS = 5.0
"""Seconds that `start` waits for a server, which may reject the run."""
_STOP_SECONDS = 2.0
_LONGEST_VALUE = 5000  # characters of a parameter or tag; every service accepts this many
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class BufferedTracker(Tracker):
    """Records a run at a service through an outbox on disk (decision 011).

    A server that does not answer causes no delay: entries wait in the outbox, which this run or the next run with this
    service sends. A rejection at the start is an error, and so is an unusable database.

    Args:
        store: the service.
        experiment: the experiment that the run belongs to.
    """

    def __init__(self, store: Store, experiment: str) -> None:
        self._store = store
        self._experiment = experiment
        self._resumes: str | None = None
        self._outbox: Outbox | None = None
        self._sender: Sender | None = None
        self._ended = self._unwritable = False
        self._temporary: Path | None = None
        self._bytes = 0
        self.location = store.location
        self.keeps_models = store.keeps_models

    def state_dict(self) -> State:
        """Returns the location and the ID of the run; while the ID is unknown, the name of its outbox instead."""
        outbox = self._outbox
        run = outbox.run_id or outbox.header["continues"] or outbox.name if outbox else self._resumes
        return {"location": self.location, "run": run}

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        """Makes `start` resume a run of this service; see `Tracker.load_state_dict`."""
        run = run_in(state, self.location)
        if run is not None and _RUN.fullmatch(run):
            self._resumes = run

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens or resumes the run; see `Tracker.start`.

        Raises:
            TrackingError: the service rejects the run, or is an unusable database.
        """
        self._store.prepare()
        by_outbox = self._resumes is not None and self._resumes.startswith("spool-")
        run = RunInfo(
            experiment=self._experiment,
            name=run_name,
            time=_now(),
            params=_texts(params),
            tags=_texts(tags),
            run_id=None if by_outbox else self._resumes,
            continues=self._resumes if by_outbox else None,
        )
        self._outbox = self._make_outbox({"kind": "run", "location": self.location, **vars(run)})
        self._sender = Sender(self._store, self._outbox, run)
        self._sender.start()
        try:
            fault = self._sender.wait_for_answer(START_SECONDS if self._store.remote else None)
            if isinstance(fault, StoreRejected) or (fault and not self._store.remote):
                raise TrackingError(
                    f"tracking.uri: cannot use {self.location} as a tracking store: {fault}. "
                    "Give another one, or --tracking=none."
                ) from fault
        except BaseException:  # the run has failed or was interrupted; the next one must not send it
            self._ended = True
            self._discard(self._outbox)
            self._sender.stop(_STOP_SECONDS)
            raise
        if fault is not None:
            where, path = self.location, self._outbox.path
            _log.warning("tracking: %s: %s; the training goes on, and its entries wait in %s", where, fault, path)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics of one step."""
        values = {name: float(value) for name, value in metrics.items()}
        self._append({"kind": "metrics", "values": values, "step": int(step), "time": _now()})

    def log_artifacts(self, path: Path) -> None:
        """Logs a file, or all files of a folder, with their content at the time of sending."""
        path = Path(path).absolute()
        for file, folder in _files(path):
            with contextlib.suppress(OSError):  # a missing file is skipped when it is to be sent
                self._bytes += file.stat().st_size
            self._append({"kind": "artifact", "path": str(file), "folder": folder})

    def log_datasets(self, records: Sequence[DataRecord]) -> None:
        """Logs which data the run uses."""
        for record in records:
            self._append(record.entry())

    def log_model(
        self, files: Mapping[str, Path | str], *, register: str | None = None, alias: str | None = None
    ) -> None:
        """Logs the finished model; see `Tracker.log_model`."""
        if not self._store.keeps_models:
            return
        for place, content in files.items():
            if isinstance(content, str):
                self._append({"kind": "model_text", "text": content, "place": place})
                continue
            with contextlib.suppress(OSError):
                self._bytes += content.stat().st_size
            self._append({"kind": "model_file", "path": str(content.absolute()), "place": place})
        if register is not None:
            self._append({"kind": "register", "name": register, "alias": alias})

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run, and waits a limited time for the remaining entries."""
        if self._outbox is None or self._sender is None or self._ended:
            return
        self._append({"kind": "end", "status": status, "time": _now()})
        self._ended = True
        self._outbox.sync()  # the thread may be in a slow call
        self._sender.finish(self._bytes)
        count = self._outbox.waiting
        if self._temporary is not None:
            self._discard(self._outbox)
        if count:
            outlook = "they are lost" if self._temporary else "the next run with this store delivers them"
            _log.warning("tracking: %d entries for %s wait in %s; %s", count, self.location, self._outbox.path, outlook)

    def _make_outbox(self, header: Entry) -> Outbox:
        try:
            return Outbox.create(cache_dir() / "tracking", header)
        except OSError as error:
            reason = error.strerror or error
        _log.warning("tracking: %s: %s; what the store has not taken when this run ends is lost", cache_dir(), reason)
        try:
            self._temporary = Path(tempfile.mkdtemp(prefix="kcv-tracking-"))
            return Outbox.create(self._temporary, header)
        except OSError as error:
            raise TrackingError(f"tracking: no file can be written: {error.strerror or error}.") from None

    def _discard(self, outbox: Outbox) -> None:
        outbox.remove()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _append(self, entry: Entry) -> None:
        if self._outbox is None or self._sender is None or self._ended:
            return
        try:
            self._outbox.append(entry)
        except OSError as error:
            if not self._unwritable:
                reason = error.strerror or error
                _log.warning("tracking: %s: %s; the record will have gaps", self._outbox.path, reason)
            self._unwritable = True
        self._sender.notify()


def _files(path: Path) -> list[tuple[Path, str | None]]:
    """Returns a file, or all files below a folder, each with its relative folder.

    Links in a folder are skipped, because they may lead out of it; so are hidden files, which killed processes leave.
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


def _now() -> int:
    return int(time.time() * 1000)
