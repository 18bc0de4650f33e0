"""What the answers of servers that are no working MLflow server mean at a start."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator

import pytest
from web import QuietHandler, serving

from kcv.errors import TrackingError
from kcv.tracking import MlflowTracker

Messages = Callable[[], list[str]]


class Handler(QuietHandler):
    status, body = 200, b""
    seconds = threading.Event()
    seconds.set()

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seconds.wait(60)
        with contextlib.suppress(ConnectionError):  # who asked may have gone
            self.send_response(self.status)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = answer


@pytest.fixture
def uri() -> Iterator[str]:
    with serving(Handler) as address:
        yield address.replace("http://", "http://anna:secret@")


def error(code: str) -> bytes:
    return json.dumps({"error_code": code, "message": "no"}).encode()


@pytest.mark.parametrize(
    ("status", "body", "part"),
    [
        (401, b"You are not authenticated.", "401"),
        (403, b"Permission denied", "403"),
        (403, error("PERMISSION_DENIED"), "PERMISSION_DENIED"),
        (404, b"<html>not here</html>", "404"),
        (400, error("INVALID_PARAMETER_VALUE"), "INVALID_PARAMETER_VALUE"),
        (200, b"<html>another server</html>", "not in a valid JSON format"),
    ],
)
def test_an_answer_that_refuses_is_an_error(
    monkeypatch: pytest.MonkeyPatch, uri: str, status: int, body: bytes, part: str
) -> None:
    monkeypatch.setattr(Handler, "status", status)
    monkeypatch.setattr(Handler, "body", body)
    with pytest.raises(TrackingError, match=part) as caught:
        MlflowTracker(uri, "kcv").start("run", {}, {})
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, uri: str, status: int, messages: Messages
) -> None:
    monkeypatch.setattr("kcv.tracking.sender.SILENT_SECONDS", 0.2)
    monkeypatch.setattr(Handler, "status", status)
    tracker = MlflowTracker(uri, "kcv")
    tracker.start("run", {}, {})
    tracker.finish()
    assert "the server is not able to answer; the training goes on" in messages()[0]
    assert "2 entries" in messages()[1]
    assert "secret" not in "".join(messages())


def test_a_server_that_only_listens_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, uri: str, messages: Messages
) -> None:
    monkeypatch.setattr("kcv.tracking.buffered.START_SECONDS", 0.2)
    monkeypatch.setattr("kcv.tracking.sender.FINISH_SECONDS", 0.2)
    monkeypatch.setattr(Handler, "seconds", threading.Event())
    tracker = MlflowTracker(uri, "kcv")
    tracker.start("run", {}, {})
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.finish()
    assert "no answer yet; the training goes on" in messages()[0]
    assert "3 entries" in messages()[1]
    Handler.seconds.set()


def test_an_answer_without_an_end_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.tracking.mlflow.MOST_BYTES", 2**17)
    sent = []

    def answer(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):  # who asked has gone
            while len(sent) < 1000:
                handler.wfile.write(b" " * 2**16)
                sent.append(1)

    monkeypatch.setattr(Handler, "do_GET", answer)
    with pytest.raises(TrackingError, match="its answer is longer than"):
        MlflowTracker(uri, "kcv").start("run", {}, {})
    assert len(sent) < 1000


def test_an_answer_that_takes_too_long_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.tracking.mlflow.MOST_SECONDS", -1.0)
    monkeypatch.setattr(Handler, "body", b"{}")
    with pytest.raises(TrackingError, match="its answer is longer than"):
        MlflowTracker(uri, "kcv").start("run", {}, {})
