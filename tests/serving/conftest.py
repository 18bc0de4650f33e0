"""What the tests of the server share: a model made by hand, and a server that most of them ask."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx_by_hand import network
from serving import PATIENCE, Running, serving


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, 16 px, of the classes a, b and c."""
    path = tmp_path_factory.mktemp("served") / "net.onnx"
    path.write_bytes(network())
    return path


@pytest.fixture(scope="module")
def running(network_file: Path) -> Iterator[Running]:
    """A server of that model, which most tests ask."""
    with serving(network_file) as server:
        yield server


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Returns what kcv has logged so far."""
    log = logging.getLogger("kcv")
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO, "kcv")
    return lambda: caplog.text


@pytest.fixture(scope="session")
def soon() -> Callable[[Callable[[], bool]], None]:
    """Returns a function that waits until something is so, and fails where it does not come."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)

    return wait
