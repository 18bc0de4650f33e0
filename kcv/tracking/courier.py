"""The thread that takes spools to a store, so that no training waits for one."""

from __future__ import annotations

import logging
import threading
import time

from kcv.errors import first_line
from kcv.tracking.delivery import Delivery
from kcv.tracking.faults import NoAnswer, Refused
from kcv.tracking.lines import describes_run
from kcv.tracking.spool import Spool
from kcv.tracking.store import Store

_log = logging.getLogger(__name__)

FINISH_SECONDS = 30.0
"""How long an end waits while the store takes entries; longer for large files, at `SLOWEST_BYTES` a second."""
SILENT_SECONDS = 5.0
"""How long an end waits for a store that does not answer."""
SLOWEST_BYTES = 1e6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts at a store that does not answer: at first, and at most."""
_STOP_SECONDS = 2.0
_PATIENCE = 8  # failures of a spool left over, before it is left to another run


class Courier:
    """Delivers a spool while it grows, and after it those that earlier runs have left over.

    Args:
        store: where to.
        spool: of this run.
    """

    def __init__(self, store: Store, spool: Spool) -> None:
        self._store = store
        self._spool = spool
        self._queue = [Delivery(store, spool)]
        self._changed = threading.Condition()
        self._fault: NoAnswer | Refused | None = None  # of the last attempt
        self._asked = False  # somebody has waited for the first answer, and has told of it
        self._opened = self._ended = self._stopped = self._discarded = self._done = False
        self._failures = 0
        self._delivered_at = 0.0

    def start(self) -> None:
        """Starts the thread. It is a daemon: a process never waits for a store in order to end."""
        threading.Thread(target=self._work, name="kcv-tracking", daemon=True).start()

    def wait_for_answer(self, seconds: float | None) -> NoAnswer | Refused | None:
        """Waits until the run is open, or the first attempt has failed, and returns what it failed of."""
        with self._changed:
            self._changed.wait_for(lambda: self._opened or self._fault or self._done, seconds)
            self._asked = True
            if not (self._opened or self._fault or self._done):
                return NoAnswer("no answer yet")
            return None if self._opened else self._fault

    def tell(self) -> None:
        """Says that the spool has grown."""
        with self._changed:
            self._changed.notify_all()

    def wait_for_end(self, large: int) -> None:
        """Waits until the spool, which grows no more, has been delivered, or until that takes too long.

        Args:
            large: bytes of the files in it.
        """
        began = time.monotonic()
        latest = began + FINISH_SECONDS + large / SLOWEST_BYTES
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            while not self._done:
                silent = max(began, self._delivered_at) + SILENT_SECONDS
                left = (min(latest, silent) if self._failures else latest) - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 0.2))

    def stop(self, *, discard: bool = False) -> None:
        """Ends the thread after the call to the store that it is in.

        Args:
            discard: nobody wants the spool of this run; then this waits a moment until it has gone.
        """
        with self._changed:
            self._stopped = True
            self._discarded = discard
            self._changed.notify_all()
            if discard:
                self._changed.wait_for(lambda: self._done, _STOP_SECONDS)

    def _work(self) -> None:
        try:
            self._take_left_over()
            while not self._stopped:
                try:
                    if not self._deliver_one():
                        break
                except (NoAnswer, Refused) as fault:
                    self._bear(fault)
                    if not self._opened:  # another process may have let go of the run to continue
                        self._take_left_over()
        except Exception as error:  # a fault of kcv's own must not look like one of the training
            _log.warning("tracking stopped, the training goes on: %s: %s", type(error).__name__, first_line(error))
        finally:
            if self._discarded:
                self._spool.remove()
            for delivery in self._queue:
                delivery.spool.close()
            self._spool.close()
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _take_left_over(self) -> None:
        """Queues the spools of other runs; those of the run that is continued go first, for the order of its steps."""
        header = self._spool.header
        continued = {header["run_id"], header["continues"]} - {None}
        for spool in Spool.left_over(self._spool.path.parent, self._store.location):
            if not describes_run(spool.header):
                spool.set_aside()
                continue
            names = {spool.name, spool.run_id, spool.header.get("continues")}
            same = bool(continued & names)
            delivery = Delivery(self._store, spool, left_over=True, goes_on=same)
            own = next(place for place, other in enumerate(self._queue) if other.spool is self._spool)
            self._queue.insert(own if same else len(self._queue), delivery)

    def _deliver_one(self) -> bool:
        """Delivers one entry, or waits for one. Returns whether there is more to do."""
        for delivery in list(self._queue):
            own = delivery.spool is self._spool
            ended = self._ended  # read before the spool is: what it holds then is all
            try:
                if delivery.step():
                    self._note_success(opened=own)
                    return True
                if not own or ended:
                    delivery.conclude()
                    self._queue.remove(delivery)
                    return bool(self._queue)
            except (NoAnswer, Refused) as fault:
                delivery.failures += 1
                if own or not self._opened or (isinstance(fault, NoAnswer) and delivery.failures < _PATIENCE):
                    raise
                # It must not hold up this run, whose entries the store may well take.
                _log.warning(
                    "tracking: %s does not take the run of %s, which stays there: %s",
                    self._store.location,
                    delivery.spool.path,
                    fault,
                )
                self._queue.remove(delivery)
                delivery.spool.close()
                return bool(self._queue)
            except Exception:  # what an earlier run has left is not what a spool holds
                if own:
                    raise
                self._queue.remove(delivery)
                delivery.spool.set_aside()
                return bool(self._queue)
        self._spool.sync()
        with self._changed:
            if not (self._stopped or self._ended or self._spool.waiting):
                self._changed.wait()
        return True

    def _note_success(self, *, opened: bool) -> None:
        if self._failures and self._asked:
            _log.info("tracking: %s takes entries again", self._store.location)
        with self._changed:
            self._opened = self._opened or opened
            self._fault = None
            self._failures = 0
            self._delivered_at = time.monotonic()
            self._changed.notify_all()

    def _bear(self, fault: NoAnswer | Refused) -> None:
        """Waits, the longer the more often the store has failed; an end is in more of a hurry."""
        self._spool.sync()
        with self._changed:
            if self._asked and type(fault) is not type(self._fault):  # once for each turn for the worse
                _log.warning(
                    "tracking: %s: %s; the training goes on, and its entries wait in %s",
                    self._store.location,
                    fault,
                    self._spool.path,
                )
            self._fault = fault
            self._failures += 1
            self._changed.notify_all()
            hurried = self._ended
            longest = FIRST_PAUSE if hurried else LONGEST_PAUSE
            pause = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), longest)
            self._changed.wait_for(lambda: self._stopped or self._ended != hurried, pause)
