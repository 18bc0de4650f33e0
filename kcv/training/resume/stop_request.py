"""Ctrl-C and SIGTERM: the first stops after the current step, the second stops immediately."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Turns signals into a request that training handles between two steps.

    Args:
        ignore_repeats: whether a second signal during the steps is ignored: torchrun sends its processes a signal
            of its own after the terminal's, and kills them after half a minute anyway.

    Attributes:
        requested: whether a stop has been requested.
    """

    def __init__(self, *, ignore_repeats: bool = False) -> None:
        self.requested = False
        self._ignore_repeats = ignore_repeats
        self._between_steps = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals while the block runs; outside the main thread it cannot, and does nothing.

        Blocks may be nested, such as one for each of several runs in one for all of them. A request that came too late
        for the inner block, after its last step, is one to the outer block.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
                outer = getattr(handler, "__self__", None)
                if self.requested and isinstance(outer, StopRequest):
                    outer.requested = True

    def raise_if_requested(self) -> None:
        """Raises KeyboardInterrupt if a stop has been requested; for a block between several runs."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Inside the block a signal is a request; elsewhere it raises KeyboardInterrupt immediately."""
        self._between_steps = True
        try:
            yield
        finally:
            self._between_steps = False

    def _handle_signal(self, number: int, frame: FrameType | None) -> Any:
        if self._between_steps and self.requested and self._ignore_repeats:
            return
        if self.requested or not self._between_steps:
            raise KeyboardInterrupt
        self.requested = True
        _log.info("stopping after this step%s", "" if self._ignore_repeats else "; once more stops at once")
