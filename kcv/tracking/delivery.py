"""One spool's way into a store, an entry at a time.

Each entry may be delivered more than once, when an answer or this process is lost in between. So entries are such that
the store takes them twice without a trace: figures carry their own time, and a run is found by the spool it is made of.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from kcv.common.untrusted import is_link
from kcv.tracking.faults import NoAnswer, Refused
from kcv.tracking.lines import Entry, describes_run
from kcv.tracking.spool import Spool
from kcv.tracking.store import Store

_log = logging.getLogger(__name__)


class Delivery:
    """Delivers the entries of a spool in order.

    Args:
        store: where to.
        spool: what.
        left_over: from a process that is gone, so that what is there is all.
        goes_on: the run of a spool left over is being continued, and must not be closed.
    """

    def __init__(self, store: Store, spool: Spool, *, left_over: bool = False, goes_on: bool = False) -> None:
        self.spool = spool
        self.ended = False
        self.failures = 0
        self._store = store
        self._goes_on = goes_on
        self._created = left_over  # perhaps: by a call whose answer was lost
        self._held: dict[str, set[int]] = {}
        self._missing = self._left_out = 0

    def step(self) -> bool:
        """Delivers the next entry. Returns whether there was one.

        Raises:
            NoAnswer: the entry stays the next one.
            Refused: likewise; what is refused has nothing to do with the entry, or the entry is the run itself.
        """
        entry = self.spool.peek()
        if entry is None:
            return False
        try:
            self._deliver(entry)
        except Refused as refusal:
            if not refusal.of_entry or entry.get("kind") == "run":
                raise
            self._leave_out(str(refusal))
        self.spool.advance()
        return True

    def conclude(self) -> None:
        """Removes the spool, all of which has been delivered; a run whose process died before its end is closed.

        Raises:
            NoAnswer: the spool stays.
            Refused: likewise.
        """
        if not self.ended and not self._goes_on and self.spool.run_id is not None:
            try:
                self._end("KILLED", int(os.stat(self.spool.path).st_mtime * 1000))
            except Refused as refusal:
                if not refusal.of_entry:
                    raise
                self._leave_out(str(refusal))
        if self._missing:
            _log.warning(
                "tracking: %d files of the run %s are gone or cannot be read; the record is without them",
                self._missing,
                self.spool.header.get("name"),
            )
        self.spool.remove()

    def _deliver(self, entry: Entry) -> None:
        match entry:
            case {"kind": "run"} if describes_run(entry):
                self._open(entry)
            case {"kind": "metrics", "values": dict() as values, "step": int() as step, "time": int() as timestamp}:
                if not self._holds(values, step):
                    self._store.log_metrics(self._run_id, values, step, timestamp)
            case {"kind": "artifact", "path": str() as path, "folder": (None | str()) as folder}:
                # By now a link may have its name, or that of its folder in the run.
                if _is_own_file(Path(path), folder) and os.access(path, os.R_OK):
                    self._store.log_artifact(self._run_id, Path(path), folder)
                else:
                    self._missing += 1
            case {"kind": "end", "status": str() as status, "time": int() as timestamp}:
                if not self._goes_on:
                    self._end(status, timestamp)
                self.ended = True
            case _:
                self._leave_out("a damaged line")

    @property
    def _run_id(self) -> str:
        if self.spool.run_id is None:  # the first line, which makes the run, is damaged
            raise Refused(f"{self.spool.path} names no run", of_entry=True)
        return self.spool.run_id

    def _open(self, header: Entry) -> None:
        experiment, named = header["experiment"], header["continues"]
        if self.spool.run_id is None:
            origin = named or self.spool.name
            run_id = self._store.find_run(experiment, origin) if named or self._created else None
            if run_id is None:
                if named and self.spool.is_waiting(named):
                    raise NoAnswer(f"the run to continue waits in {named}, which is in use")
                self._created = True
                run_id = self._store.create_run(experiment, header["name"], header["time"], origin)
            self.spool.run_id = run_id
            self.spool.save()
        if named or header["run_id"]:
            self._store.reopen_run(self.spool.run_id)
        self._store.describe_run(self.spool.run_id, header["params"], header["tags"])

    def _holds(self, values: dict[str, float], step: int) -> bool:
        """Tells whether a run that is continued has this step; one figure stands for all that are logged with it."""
        header = self.spool.header
        if not values or not (header["continues"] or header["run_id"]):
            return False
        metric = next(iter(values))
        if metric not in self._held:
            self._held[metric] = self._store.steps(self._run_id, metric)
        return step in self._held[metric]

    def _end(self, status: str, timestamp: int) -> None:
        self._store.end_run(self._run_id, status, timestamp)

    def _leave_out(self, reason: str) -> None:
        self._left_out += 1
        if self._left_out == 1:
            _log.warning("tracking: %s refuses an entry, which is left out: %s", self._store.location, reason)


def now() -> int:
    """Returns the time as MLflow counts it."""
    return int(time.time() * 1000)


def _is_own_file(path: Path, folder: str | None) -> bool:
    """Tells whether a file that is to be delivered is a regular one, reached by no link within its run."""
    within = len(Path(folder).parts) if folder else 0
    return os.path.isfile(path) and not any(is_link(place) for place in (path, *list(path.parents)[:within]))
