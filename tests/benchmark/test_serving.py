"""The client that loads a server, and the rows of `kcv benchmark serve`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from onnx_by_hand import SIZE, network
from served_images import photo
from serving import PATIENCE, Running, serving

from kcv.benchmark import serving as benchmark
from kcv.benchmark.http_load import load
from kcv.cli.render.benchmark import serving_benchmark


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small model."""
    path = tmp_path / "net.onnx"
    path.write_bytes(network())
    return path


def request(path: str = "/predict") -> bytes:
    body = photo()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_each_answer_is_counted_once(path: Path) -> None:
    def count(running: Running, least: int) -> int:
        """The server counts an answer after it has sent it: the client may be ahead of it by one per connection."""
        end = time.monotonic() + PATIENCE
        while running.server.server_state.total_requests < least and time.monotonic() < end:
            time.sleep(0.005)
        return running.server.server_state.total_requests

    with serving(path) as running:
        found = load(running.port, request(), connections=4, seconds=0.3)
        before = count(running, len(found.accepted))
        assert len(found.accepted) == before > 0
        assert (found.refused, found.others, found.unsent) == ([], 0, 0)
        assert min(found.accepted) > 0
        wrong = load(running.port, request("/none"), connections=2, seconds=0.1)
        assert wrong.accepted == [] and wrong.others == count(running, before + wrong.others) - before > 0


def test_requests_at_a_rate_are_sent_when_they_are_due(path: Path) -> None:
    with serving(path) as running:
        found = load(running.port, request(), connections=50, seconds=0.5, rate=40)
    assert 15 <= len(found.accepted) + found.unsent <= 21


@pytest.mark.long
@pytest.mark.serial
def test_a_row_holds_what_was_measured(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_TURN_SECONDS", 0.3)
    monkeypatch.setattr(benchmark, "_OVERLOAD_SECONDS", 0.5)
    monkeypatch.setattr(benchmark, "_OVERLOAD_CONNECTIONS", 100)
    monkeypatch.setattr(benchmark, "_SINGLE", 3)
    row = {"model": "net", "precision": "float32", **benchmark._row(path, benchmark._images(tmp_path, SIZE), 2)}
    assert json.loads(json.dumps(row)) == row
    assert row["failed"] == 0
    for key in ("here_per_second", "served_per_second", "served_over_here", "ready_seconds", "memory_bytes"):
        assert row[key] > 0
    assert "net" in serving_benchmark([row])
