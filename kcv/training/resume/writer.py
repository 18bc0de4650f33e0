"""Checkpoints are written by a thread beside the training."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kcv.errors import OutputError
from kcv.training.resume.state import State
from kcv.training.resume.store import CheckpointStore

_log = logging.getLogger(__name__)

SHARE = 0.02
"""The part of the time that checkpoints may take."""


class Writer:
    """Writes one state at a time; training goes on meanwhile, and also if the disk is full.

    Args:
        store: where to.
        every: the least number of seconds between two checkpoints. They also never take more than `SHARE` of the time.
            0 writes every state that is offered, and waits for the one before.
        clock: returns seconds; replaceable so that tests need no real time.
    """

    def __init__(self, store: CheckpointStore, every: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._store = store
        self._every = every
        self._clock = clock
        self._next = clock() + every
        self._thread: threading.Thread | None = None
        self._failed = False

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint, and the writer is free."""
        if self._every == 0:
            return True
        return self._clock() >= self._next and (self._thread is None or not self._thread.is_alive())

    def offer(self, take: Callable[[], State]) -> None:
        """Takes a state and writes it beside the training."""
        self.wait()
        began = self._clock()
        state = take()
        if not state.finite:
            return  # there is no way on from it; the one before stays
        self._thread = threading.Thread(target=self._write, args=(state, began), name="checkpoint", daemon=True)
        self._thread.start()

    def save(self, state: State) -> None:
        """Writes a state at once.

        Raises:
            OutputError: it cannot be written.
        """
        self.wait()
        self._store.save(state)

    def wait(self) -> None:
        """Waits for the state that is being written, if any."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: State, began: float) -> None:
        try:
            self._store.save(state)
            self._failed = False
        except OutputError as error:
            if not self._failed:  # once, not every half minute
                _log.warning("no checkpoint, the training goes on: %s", error)
            self._failed = True
        now = self._clock()
        self._next = now + max(self._every, (now - began) / SHARE)
