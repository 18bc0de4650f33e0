from __future__ import annotations

import io
import os
import re
import threading

import pytest

from kcv.common import progress
from kcv.common.progress import Progress


class Terminal(io.StringIO):
    """A terminal that remembers every line it was made to show."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True

    @property
    def frames(self) -> list[str]:
        return [frame.replace("\x1b[K", "") for frame in self.getvalue().split("\r")[1:]]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")


def test_shows_bar_percentage_rate_eta_and_metrics() -> None:
    terminal, clock = Terminal(), Clock()
    bar = Progress(1000, "epoch 1/5", stream=terminal, clock=clock)
    clock.now += 2
    bar.advance(250, lambda: {"loss": 1.25, "accuracy": 0.5})

    assert terminal.frames == [
        "epoch 1/5  " + "━" * 7 + "─" * 21 + "   25%  125 images/s  ETA 0:06  loss 1.2500  accuracy 0.5000"
    ]
    bar.close()
    assert terminal.frames[-1] == "", "the line is wiped at the end"
    assert "\n" not in terminal.getvalue()


def test_piped_writes_nothing() -> None:
    stream = io.StringIO()
    with Progress(10, "predict", stream=stream, keep=True) as bar:
        bar.advance(10, lambda: {"loss": 1.0})
    assert stream.getvalue() == ""


def test_dumb_terminal_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Progress(10, "predict", stream=terminal) as bar:
        bar.advance(10)
    assert terminal.getvalue() == ""


def test_redraws_at_most_ten_times_a_second() -> None:
    terminal, clock = Terminal(), Clock()
    bar = Progress(1000, "x", stream=terminal, clock=clock)
    for _ in range(1000):
        clock.now += 0.001
        bar.advance(1)
    assert 9 <= len(terminal.frames) <= 11
    assert bar.done == 1000


@pytest.mark.parametrize("columns", [8, 20, 40, 61, 80, 200])
def test_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal, clock = Terminal(), Clock()
    bar = Progress(123_456, "猫と犬 a rather long label", stream=terminal, clock=clock, keep=True)
    for _ in range(20):
        clock.now += 1
        bar.advance(5000, lambda: {"loss": 0.123456, "accuracy": 0.98765, "learning_rate": 1e-5})
    bar.close()
    assert max(progress._cells(frame.strip("\n")) for frame in terminal.frames) < columns


def test_narrow_terminal_drops_metrics_before_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "58")
    terminal, clock = Terminal(), Clock()
    bar = Progress(1000, "train", stream=terminal, clock=clock)
    clock.now += 1
    bar.advance(100, lambda: {"loss": 1.0})
    assert "100 images/s  ETA 0:09" in terminal.frames[-1]
    assert "loss" not in terminal.frames[-1]


def test_width_is_that_of_the_stream_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "fileno", lambda self: 7)
    monkeypatch.setattr(os, "get_terminal_size", lambda handle: os.terminal_size((30, 10) if handle == 7 else (90, 10)))
    terminal = Terminal()
    Progress(10, "train", stream=terminal, clock=Clock()).advance(1, lambda: {"loss": 1.0, "accuracy": 0.5})
    assert len(terminal.frames[-1]) <= 29


def test_rate_forgets_a_slow_start() -> None:
    terminal, clock = Terminal(), Clock()
    bar = Progress(100_000, "train", stream=terminal, clock=clock)
    clock.now += 60  # the first step compiles for a minute
    bar.advance(100)
    for _ in range(30):
        clock.now += 1
        bar.advance(100)
    assert "100 images/s" in terminal.frames[-1]
    assert "ETA 16:09" in terminal.frames[-1]


def test_kept_line_shows_the_average_of_the_whole_job() -> None:
    terminal, clock = Terminal(), Clock()
    with Progress(300, "download", unit="files", stream=terminal, clock=clock, keep=True) as bar:
        clock.now += 10
        bar.advance(100)
        for _ in range(20):
            clock.now += 1
            bar.advance(10)
    assert terminal.frames[-1] == "download  " + "━" * 28 + "  100%  10 files/s\n"


@pytest.mark.parametrize(
    ("done", "shown"), [(999, "999 B"), (1500, "1.5 kB"), (12_340_000, "12.3 MB"), (2e9, "2.0 GB")]
)
def test_unknown_total_counts_without_a_bar(done: float, shown: str) -> None:
    terminal = Terminal()
    Progress(None, "download", unit="bytes", stream=terminal, clock=Clock()).advance(int(done))
    assert terminal.frames == [f"download  {shown}"]


def test_long_jobs_show_hours() -> None:
    terminal, clock = Terminal(), Clock()
    bar = Progress(7_323, "train", stream=terminal, clock=clock)
    clock.now += 2
    bar.advance(2)
    assert "ETA 2:02:01" in terminal.frames[-1]


def test_more_than_the_total_stays_at_100_percent() -> None:
    terminal, clock = Terminal(), Clock()
    bar = Progress(10, "x", stream=terminal, clock=clock)
    clock.now += 1
    bar.advance(25)
    assert "100%" in terminal.frames[-1] and "ETA" not in terminal.frames[-1]


def test_terminal_without_unicode_gets_ascii() -> None:
    class Ascii(Terminal):
        encoding = "ascii"  # type: ignore[assignment]

    terminal = Ascii()
    Progress(4, "x", stream=terminal, clock=Clock()).advance(1)
    assert re.search(r"#{7}-{21}", terminal.getvalue())
    terminal.getvalue().encode("ascii")


def test_lost_terminal_does_not_end_the_job() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with Progress(10, "x", stream=Gone(), clock=Clock()) as bar:
        bar.advance(5)
        bar.advance(5)
    assert bar.done == 10


def test_close_twice_and_advance_after_it_write_nothing_more() -> None:
    terminal = Terminal()
    bar = Progress(10, "x", stream=terminal, clock=Clock())
    bar.advance(5)
    bar.close()
    before = terminal.getvalue()
    bar.close()
    bar.advance(10)
    assert terminal.getvalue() == before


def test_job_that_never_advanced_leaves_the_terminal_alone() -> None:
    terminal = Terminal()
    with Progress(None, "x", stream=terminal, clock=Clock()):
        pass
    assert terminal.getvalue() == ""


def test_threads_lose_no_count() -> None:
    bar = Progress(40_000, "x", stream=Terminal())
    threads = [threading.Thread(target=lambda: [bar.advance(1) for _ in range(5000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bar.done == 40_000
