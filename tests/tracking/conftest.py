from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def spools(tmp_path: Path) -> Path:
    """The folder of the test's own spools."""
    return tmp_path / "cache" / "tracking"


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    """A thread that is in MLflow while pytest puts the warning filters back would meet with another test's."""
    yield
    for thread in threading.enumerate():
        if thread.name == "kcv-tracking":
            thread.join(60)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what kcv has logged so far."""
    monkeypatch.setattr(logging.getLogger("kcv"), "propagate", True)
    caplog.set_level(logging.INFO, "kcv")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("kcv")]


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Returns a function that waits for a condition; how long that takes is no matter of any test."""

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.02)

    return wait
