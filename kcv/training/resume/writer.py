"""Writes checkpoints in a background thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kcv.errors import OutputError
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.state import State

_log = logging.getLogger(__name__)

SHARE = 0.02
"""Largest fraction of the time that checkpoints may take."""


class Writer:
    """Writes one state at a time while training continues; a full disk does not stop training.

    Args:
        store: where to write.
        every: minimum number of seconds between two checkpoints. They also never take more than `SHARE` of the time.
                0 writes every state offered, and waits for the previous one.
        clock: returns seconds; replaceable in tests.
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
        """Whether a checkpoint is due and the writer is idle."""
        if self._every == 0:
            return True
        return self._clock() >= self._next and (self._thread is None or not self._thread.is_alive())

    def offer(self, take: Callable[[], State]) -> None:
        """Captures a state and writes it in the background."""
        self.wait()
        began = self._clock()
        state = take()
        if not state.finite:
            return  # training could not resume from it; the previous checkpoint remains
        self._thread = threading.Thread(target=self._write, args=(state, began), name="checkpoint", daemon=True)
        self._thread.start()

    def save(self, state: State) -> None:
        """Writes a state immediately.

        Raises:
            OutputError: it cannot be written.
        """
        self.wait()
        self._store.save(state)

    def wait(self) -> None:
        """Waits for the state being written, if any."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: State, began: float) -> None:
        try:
            self._store.save(state)
            self._failed = False
        except OutputError as error:
            if not self._failed:  # only once, not every half minute
                _log.warning("no checkpoint, the training goes on: %s", error)
            self._failed = True
        now = self._clock()
        self._next = now + max(self._every, (now - began) / SHARE)
