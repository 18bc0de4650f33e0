"""A progress bar: one line on the terminal, redrawn in place; silent if stderr is a file or a pipe."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TextIO

from kcv.common.launch import Launch
from kcv.common.text import printable

_REDRAW_SECONDS = 0.1
_RATE_WINDOW_SECONDS = 10.0
_WIDEST_BAR = 28
_NARROWEST_BAR = 8
_GAP = "  "


class Progress:
    """Shows the progress, speed and remaining time of a long job.

    On a terminal, one line is redrawn at most ten times per second. It is never wider than the terminal: parts that do
    not fit are left out, least important first. Elsewhere nothing is written, so that logs stay readable; the caller
    prints the results. `advance` may be called from several threads.

        with Progress(len(images), "predict") as progress:
            for batch in batches:
                ...
                progress.advance(len(batch))

    Args:
        total: number of units of the whole job; None or 0 if unknown (then there is no bar and no ETA).
        label: name of the job.
        unit: the unit that is counted. `bytes` is shown as kB, MB or GB.
        stream: the output stream; stderr by default.
        keep: whether to leave the last state on the terminal when the job ends. By default the line is erased.
        clock: a monotonic clock in seconds; tests pass their own.
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str = "images",
        stream: TextIO | None = None,
        *,
        keep: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total or 0
        self._label = printable(label)
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._keep = keep
        self._clock = clock
        self._lock = threading.Lock()
        self._metrics: Callable[[], Mapping[str, float]] = dict
        self._done = 0
        self._start = clock()
        # The rate is measured over the last seconds: the first step of a training run is not representative.
        self._history: deque[tuple[float, int]] = deque([(self._start, 0)])
        self._drawn_at = -float("inf")
        # Only the main process writes.
        self._visible = self._stream.isatty() and os.environ.get("TERM") != "dumb" and Launch.current().is_main_process
        self._fill, self._rest = ("━", "─") if _can_print(self._stream, "━─") else ("#", "-")

    @property
    def done(self) -> int:
        """The number of units done so far."""
        return self._done

    def advance(self, n: int = 1, metrics: Callable[[], Mapping[str, float]] | None = None) -> None:
        """Counts `n` more units.

        Args:
            n: number of units.
            metrics: returns the values shown after the bar, by name; called only when the line is drawn.
        """
        with self._lock:
            self._done += n
            self._metrics = metrics or self._metrics
            now = self._clock()
            if self._visible and now - self._drawn_at >= _REDRAW_SECONDS:
                self._draw(now)

    def close(self) -> None:
        """Ends the line. Further calls of `close` or `advance` write nothing."""
        with self._lock:
            if not self._visible:
                return
            if self._keep:
                # The final rate is that of the whole job, not of its last seconds.
                self._history = deque([(self._start, 0)])
                self._draw(self._clock())
                self._write("\n")
            elif self._drawn_at > -float("inf"):  # do not erase a line that the bar did not draw
                self._write("\r\x1b[K")
            self._visible = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self, now: float) -> None:
        self._drawn_at = now
        self._history.append((now, self._done))
        while len(self._history) > 2 and now - self._history[1][0] >= _RATE_WINDOW_SECONDS:
            self._history.popleft()
        self._write("\r" + self._line(_columns(self._stream) - 1) + "\x1b[K")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal was closed, which must not stop the job
            self._visible = False

    def _line(self, width: int) -> str:
        """Returns the line, at most `width` columns wide (one below the terminal's: some wrap a full last column)."""
        since, before = self._history[0]
        elapsed = self._history[-1][0] - since
        rate = (self._done - before) / elapsed if elapsed > 0 else 0.0

        known = self._total > 0
        count = f"{min(self._done / self._total, 1):4.0%}" if known else f"{_amount(self._done, self._unit)}"
        parts = [_amount(rate, self._unit) + "/s"] if rate > 0 else []
        if known and rate > 0 and self._done < self._total:
            parts.append("ETA " + duration((self._total - self._done) / rate))
        parts += [f"{name} {_figure(value)}" for name, value in self._metrics().items()]

        label = _cut(self._label, max(width // 2, 1))
        used = _cells(label) + len(_GAP) + len(count) + (_NARROWEST_BAR + len(_GAP) if known else 0)
        shown: list[str] = []
        for part in parts:
            used += len(_GAP) + len(part)
            if used > width:
                used -= len(_GAP) + len(part)
                break
            shown.append(part)
        bar = [self._bar(min(_NARROWEST_BAR + width - used, _WIDEST_BAR))] if known and used <= width else []
        return _cut(_GAP.join([label, *bar, count, *shown]), width)

    def _bar(self, width: int) -> str:
        full = int(width * min(self._done / self._total, 1))
        return self._fill * full + self._rest * (width - full)


def _columns(stream: TextIO) -> int:
    """Returns the width of the terminal of `stream`; stdout may be another terminal, or none."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns


def _can_print(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _cells(text: str) -> int:
    """Returns the number of columns of `text`: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _cut(text: str, width: int) -> str:
    while _cells(text) > width:
        text = text[:-1]
    return text


def _amount(value: float, unit: str) -> str:
    if unit != "bytes":
        return f"{value:,.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"
    for name in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {name}" if name == "B" else f"{value:.1f} {name}"
        value /= 1000
    return f"{value:.1f} GB"


def _figure(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"


def duration(seconds: float) -> str:
    """Formats seconds as `m:ss`, or as `h:mm:ss` from one hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
