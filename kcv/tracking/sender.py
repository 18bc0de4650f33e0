"""The thread that sends outboxes to a tracking service, so that the training does not wait for the service.

An entry may be sent twice if a response is lost or the process ends in between. Therefore sending is idempotent:
metrics have their own timestamps, and a run is found by the name of its outbox.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from kcv.common.untrusted import is_link
from kcv.errors import first_line
from kcv.tracking.data_record import DataRecord
from kcv.tracking.outbox import Entry, Outbox
from kcv.tracking.store import RunInfo, Store, StoreRejected, StoreUnavailable

_log = logging.getLogger(__name__)

FINISH_SECONDS = 30.0
"""Seconds that `finish` waits while the service accepts entries, plus one per `SLOWEST_BYTES` of files."""
SILENT_SECONDS = 5.0
"""Seconds that `finish` waits for a service that does not answer."""
SLOWEST_BYTES = 1e6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts if a service does not answer: the first pause and the longest one."""
_PATIENCE = 8  # attempts to send a leftover before it is left to another run


class _Delivery:
    """Sends one outbox entry by entry; `is_resumed` if its run is being continued and must stay open."""

    def __init__(self, store: Store, outbox: Outbox, run: RunInfo, *, is_resumed: bool = False) -> None:
        self.outbox = outbox
        self.failures = 0
        self._store = store
        self.run = run
        self._is_resumed = self._ended = is_resumed
        self._logged: dict[str, set[int]] = {}
        self._missing = 0
        self._warned = False

    def send_next(self) -> bool:
        """Sends the next entry; it stays the next one if this raises. Returns whether there was one."""
        entry = self.outbox.peek()
        if entry is None:
            return False
        self._send_or_leave_out(entry)
        self.outbox.advance()
        return True

    def finalize(self) -> None:
        """Removes the outbox after all entries have been sent; closes a run whose process was killed."""
        if not self._ended and self.outbox.run_id is not None:
            died = int(os.stat(self.outbox.path).st_mtime * 1000)
            self._send_or_leave_out({"kind": "end", "status": "KILLED", "time": died})
        if self._missing:
            lost = "tracking: %d files of the run %s are gone or cannot be read; the record is without them"
            _log.warning(lost, self._missing, self.run.name)
        self.outbox.remove()

    def _send_or_leave_out(self, entry: Entry) -> None:
        try:
            self._send(entry)
        except StoreRejected as rejection:
            if not rejection.of_entry or entry.get("kind") == "run":
                raise
            if not self._warned:
                where = self._store.location
                _log.warning("tracking: %s refuses an entry, which is left out: %s", where, rejection)
            self._warned = True

    def _send(self, entry: Entry) -> None:
        if entry.get("kind") == "run":
            self.outbox.run_id = self._open_run()
            return
        run_id = self.outbox.run_id
        if run_id is None:  # the first line, which describes the run, is damaged
            raise StoreRejected(f"{self.outbox.path} names no run", of_entry=True)
        match entry:
            case {"kind": "metrics", "values": dict() as values, "step": int() as step, "time": int() as timestamp}:
                if not self._is_logged(run_id, values, step):
                    self._store.log_metrics(run_id, values, step, timestamp)
            case {"kind": "artifact", "path": str() as path, "folder": (None | str()) as folder}:
                # A link may have replaced the file, or its folder in the run, in the meantime.
                if _is_own_file(Path(path), folder) and os.access(path, os.R_OK):
                    self._store.log_artifact(run_id, Path(path), folder)
                else:
                    self._missing += 1
            case {"kind": "end", "status": str() as status, "time": int() as timestamp}:
                if not self._is_resumed:
                    self._store.end_run(run_id, status, timestamp)
                self._ended = True
            case _:
                self._send_data_or_model(run_id, entry)

    def _send_data_or_model(self, run_id: str, entry: Entry) -> None:
        """Sends an entry about the run's data or its model."""
        if (record := DataRecord.parse(entry)) is not None:
            self._store.log_dataset(run_id, record)
            return
        match entry:
            case {"kind": "model_file", "path": str() as path, "place": str() as place}:
                if _is_own_file(Path(path), None) and os.access(path, os.R_OK):
                    self._store.log_model_file(run_id, Path(path), place)
                else:
                    self._missing += 1
            case {"kind": "model_text", "text": str() as text, "place": str() as place}:
                self._store.log_model_file(run_id, text, place)
            case {"kind": "register", "name": str() as name, "alias": (None | str()) as alias}:
                self._store.register_model(run_id, name, alias)
            case _:
                raise StoreRejected("a damaged line", of_entry=True)

    def _open_run(self) -> str:
        continues = self.run.continues
        if continues and self.outbox.run_id is None and self.outbox.is_in_use(continues):
            raise StoreUnavailable(f"the run to continue waits in {continues}, which is in use")
        return self._store.open_run(self.run, continues or self.outbox.name, self.outbox.run_id)

    def _is_logged(self, run_id: str, values: dict[str, float], step: int) -> bool:
        """Returns whether a resumed run already has this step; checks one metric for all that are logged together."""
        if not values or not self.run.is_resumed:
            return False
        metric = next(iter(values))
        if metric not in self._logged:
            self._logged[metric] = self._store.logged_steps(run_id, metric)
        return step in self._logged[metric]


class Sender:
    """Sends the outbox of a run while it grows, and the leftovers of earlier runs."""

    def __init__(self, store: Store, outbox: Outbox, run: RunInfo) -> None:
        self._store = store
        self._outbox = outbox
        self._own = _Delivery(store, outbox, run)
        self._queue = [self._own]
        self._changed = threading.Condition()
        self._fault: StoreUnavailable | StoreRejected | None = None  # error of the last attempt
        self._answered = False  # `wait_for_answer` has returned; later errors are logged here
        self._opened = self._closing = self._stopped = self._done = False
        self._failures = 0
        self._sent_at = 0.0
        # A daemon thread, so that the end of the process never waits for a service.
        self._thread = threading.Thread(target=self._work, name="kcv-tracking", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wait_for_answer(self, seconds: float | None) -> StoreUnavailable | StoreRejected | None:
        """Waits until the run is open or the first attempt has failed; returns the error, or None."""
        with self._changed:
            known = self._changed.wait_for(lambda: self._opened or self._fault or self._done, seconds)
            self._answered = True
            if not known:
                return StoreUnavailable("no answer yet")
            return None if self._opened else self._fault

    def notify(self) -> None:
        """Notifies the thread that the outbox has grown."""
        with self._changed:
            self._changed.notify_all()

    def finish(self, large: int) -> None:
        """Waits until the outbox has been sent, or a timeout that grows with `large` (bytes of files); then stops."""
        began = time.monotonic()
        latest = began + FINISH_SECONDS + large / SLOWEST_BYTES
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while not self._done:
                silent = max(began, self._sent_at) + SILENT_SECONDS
                if time.monotonic() > (min(latest, silent) if self._failures else latest):
                    break
                self._changed.wait(0.2)
        self.stop()

    def stop(self, wait: float = 0.0) -> None:
        """Ends the thread after its current call to the service; waits at most `wait` seconds for that."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(wait)

    def _work(self) -> None:
        try:
            self._collect_leftovers()
            while self._queue and not self._stopped:
                delivery = self._next_or_wait()
                if delivery is not None and not self._sends(delivery):
                    self._queue.remove(delivery)
        except Exception as error:  # a bug in kcv's tracking must not look like an error of the training
            _log.warning("tracking stopped, the training goes on: %s: %s", type(error).__name__, first_line(error))
        finally:
            for delivery in (*self._queue, self._own):
                delivery.outbox.close()
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _collect_leftovers(self) -> None:
        """Queues the outboxes of other runs; those of the resumed run come first, to keep its steps in order."""
        continued = {self._own.run.run_id, self._own.run.continues} - {None}
        for outbox in Outbox.leftovers(self._outbox.path.parent, self._store.location):
            run = RunInfo.parse(outbox.header)
            if run is None:
                outbox.set_aside()
                continue
            is_resumed = bool(continued & {outbox.name, outbox.run_id, run.continues})
            place = self._queue.index(self._own) if is_resumed else len(self._queue)
            self._queue.insert(place, _Delivery(self._store, outbox, run, is_resumed=is_resumed))

    def _next_or_wait(self) -> _Delivery | None:
        """Returns the first delivery that has an entry or has ended; otherwise waits for an entry of this run."""
        for delivery in self._queue:
            if delivery is not self._own or self._closing or self._outbox.peek() is not None:
                return delivery
        self._outbox.sync()
        with self._changed:
            if not (self._stopped or self._closing or self._outbox.peek() is not None):
                self._changed.wait()
        return None

    def _sends(self, delivery: _Delivery) -> bool:
        """Sends one entry, or finalizes the run. Returns whether there is more to send."""
        own = delivery is self._own
        try:
            if delivery.send_next():
                self._reset_back_off(opened=own)
                return True
            delivery.finalize()
        except (StoreUnavailable, StoreRejected) as fault:
            delivery.failures += 1
            patient = isinstance(fault, StoreUnavailable) and delivery.failures < _PATIENCE
            if own or not self._opened or patient:
                self._back_off(fault)
                if not self._opened:  # another process may have released the run to continue
                    self._collect_leftovers()
                return True
            # A leftover must not block this run, whose entries the service may accept.
            where, path = self._store.location, delivery.outbox.path
            _log.warning("tracking: %s does not take the run of %s, which stays there: %s", where, path, fault)
            delivery.outbox.close()
        except Exception:  # the leftover of an earlier run is not a valid outbox
            if own:
                raise
            delivery.outbox.set_aside()
        return False

    def _reset_back_off(self, *, opened: bool) -> None:
        if self._failures and self._answered:
            _log.info("tracking: %s takes entries again", self._store.location)
        with self._changed:
            self._opened = self._opened or opened
            self._fault = None
            self._failures = 0
            self._sent_at = time.monotonic()
            self._changed.notify_all()

    def _back_off(self, fault: StoreUnavailable | StoreRejected) -> None:
        """Waits longer after each failure of the service; the pauses are short during `finish`."""
        self._outbox.sync()
        with self._changed:
            if self._answered and type(fault) is not type(self._fault):  # once per change of the error
                where, path = self._store.location, self._outbox.path
                _log.warning("tracking: %s: %s; the training goes on, and its entries wait in %s", where, fault, path)
            self._fault = fault
            self._failures += 1
            self._changed.notify_all()
            hurried = self._closing
            pause = FIRST_PAUSE * 2 ** min(self._failures - 1, 10)
            pause = min(pause, FIRST_PAUSE if hurried else LONGEST_PAUSE)
            self._changed.wait_for(lambda: self._stopped or self._closing != hurried, pause)


def _is_own_file(path: Path, folder: str | None) -> bool:
    """Returns whether a file to send is a regular file that is not reached by a link within its run."""
    within = len(Path(folder).parts) if folder else 0
    return os.path.isfile(path) and not any(is_link(place) for place in (path, *list(path.parents)[:within]))
