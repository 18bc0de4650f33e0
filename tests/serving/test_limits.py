"""Limits: of bytes, of images that wait, of time, of connections; each is told, and the server answers on."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_images import form, photo
from serving import PATIENCE, Running, code_of, received, serving

from kcv.inference.onnx_model import OnnxModel

PHOTO = photo(1)


Soon = Callable[[Callable[[], bool]], None]


class Gate:
    """Holds the workers of a server inside of the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.batches: list[int] = []
        whole = OnnxModel.predict_pixels

        def predict_pixels(model: OnnxModel, pixels: np.ndarray[Any, Any]) -> Any:
            if threading.current_thread().name.startswith("kcv-"):
                self.batches.append(len(pixels))
                assert self.opened.wait(PATIENCE)
            return whole(model, pixels)

        monkeypatch.setattr(OnnxModel, "predict_pixels", predict_pixels)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate that is shut; opened at the end, so that no test hangs."""
    monkeypatch.setattr("kcv.serving.service.usable_cores", lambda: 1)
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


def test_a_full_queue_says_when_to_try_again_and_loses_nothing(network_file: Path, gate: Gate, soon: Soon) -> None:
    with serving(network_file, queue_images=5) as running, ThreadPoolExecutor(16) as pool:
        first = pool.submit(running.post, "/predict", PHOTO)
        soon(lambda: gate.batches == [1])  # it is inside of the model
        waiting = [pool.submit(running.post, "/predict", PHOTO) for _ in range(5)]
        soon(lambda: len(running.service.queue) == 5)
        for _ in range(3):
            refused = running.post("/predict", PHOTO)
            assert (refused.code, refused.headers["retry-after"]) == (503, "1")
            assert "too many images wait" in refused.json["error"]
        assert running.get("/v2/health/ready").code == 200
        gate.opened.set()
        assert [one.result().code for one in (first, *waiting)] == [200] * 6
        assert running.post("/predict", PHOTO).code == 200
    assert gate.batches[:2] == [1, 5]  # what waited was taken together


def test_what_could_not_be_answered_in_time_is_refused_at_once(network_file: Path, gate: Gate, soon: Soon) -> None:
    with serving(network_file, timeout=30.0) as running, ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.post, "/predict", PHOTO)
        soon(lambda: gate.batches == [1])
        running.service.queue.took(1, 10.0)  # each image takes long: two that wait are more than half of 30 s
        waiting = [pool.submit(running.post, "/predict", PHOTO)]
        soon(lambda: len(running.service.queue) == 1)
        waiting.append(pool.submit(running.post, "/predict", PHOTO))
        soon(lambda: len(running.service.queue) == 2)
        refused = running.post("/predict", PHOTO)
        assert (refused.code, refused.headers["retry-after"]) == (503, "20")
        assert "in time" in refused.json["error"]
        gate.opened.set()
        assert [one.result().code for one in (first, *waiting)] == [200] * 3
        for _ in range(60):  # images are fast again
            running.post("/predict", PHOTO)
        assert running.service.queue._image_seconds < 1


def test_a_request_of_more_images_than_the_queue_holds_can_never_be_answered(network_file: Path) -> None:
    with serving(network_file, queue_images=2) as running:
        body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": ["", "", ""]}]}
        answered = running.post("/v2/models/net/infer", body)
        assert (answered.code, "more than the allowed 2" in answered.json["error"]) == (413, True)


def test_bytes_of_all_requests_together_are_bounded(network_file: Path, gate: Gate, soon: Soon) -> None:
    size = 400_000
    with serving(network_file, queue_bytes=1_000_000) as running, ThreadPoolExecutor(4) as pool:
        held = [pool.submit(running.post, "/predict", PHOTO + b"\0" * size) for _ in range(2)]
        soon(lambda: running.service.budget.held > 2 * size)
        refused = running.post("/predict", PHOTO + b"\0" * size)
        assert (refused.code, "too many bytes" in refused.json["error"]) == (503, True)
        gate.opened.set()
        assert [one.result().code for one in held] == [200, 200]
        soon(lambda: running.service.budget.held == 0)


def test_what_waits_too_long_is_given_up_and_not_decoded(network_file: Path, gate: Gate, soon: Soon) -> None:
    with serving(network_file, timeout=0.3) as running, ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.post, "/predict", PHOTO)
        soon(lambda: gate.batches == [1])
        late = [pool.submit(running.post, "/predict", PHOTO) for _ in range(2)]
        for one in (first, *late):
            assert one.result().code == 503
            assert one.result().headers["retry-after"] == "1"
            assert "not classified in time" in one.result().json["error"]
        gate.opened.set()
        soon(lambda: len(running.service.queue) == 0)
        assert running.post("/predict", PHOTO).code == 200
    assert sum(gate.batches) == 2, "images that nobody waited for were classified"


def test_images_of_a_client_that_hung_up_are_dropped(network_file: Path, gate: Gate, soon: Soon) -> None:
    with serving(network_file) as running, ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.post, "/predict", PHOTO)
        soon(lambda: gate.batches == [1])
        with running.connect() as connection:
            connection.sendall(
                f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PHOTO)}\r\n\r\n".encode()
            )
            connection.sendall(PHOTO)
            soon(lambda: len(running.service.queue) == 1)
        soon(lambda: running.service.budget.held == len(PHOTO))  # of the first
        gate.opened.set()
        assert first.result().code == 200
        assert running.post("/predict", PHOTO).code == 200
    assert gate.batches == [1, 1]


@pytest.fixture(scope="module")
def small(network_file: Path) -> Iterator[Running]:
    """A server with small limits."""
    with serving(
        network_file, max_bytes=50_000, max_pixels=10_000, body_seconds=0.5, header_seconds=0.5, idle_seconds=1,
        connections=20,
    ) as running:  # fmt: skip
        yield running


def test_a_body_that_is_declared_too_large_is_refused_unread(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50001\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = received(connection)
    assert code_of(answer) == 413
    assert b"100 Continue" not in answer
    assert b"the body is larger than the allowed 50,000 bytes" in answer


def test_a_body_that_becomes_too_large_is_refused_while_it_is_read(small: Running) -> None:
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 10**9:
                connection.sendall(chunk)
                sent += len(chunk)
        assert code_of(received(connection)) in (413, 0)  # 0: reset, as it went on sending
    assert sent < 10**9
    assert small.service.budget.held == 0


def test_an_answer_reaches_a_client_that_still_sends(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n")
        time.sleep(0.05)
        connection.sendall(b"x" * 100_000)
        assert code_of(received(connection)) == 413


def test_a_body_that_does_not_arrive_is_given_up(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nsome")
        answer = received(connection)
    assert code_of(answer) == 408
    assert b"did not arrive within 0.5 seconds" in answer
    assert small.service.budget.held == 0


@pytest.mark.parametrize("start", [b"", b"GET /ping HT", b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_headers_that_do_not_arrive_end_the_connection(small: Running, start: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(start)
        assert connection.recv(100) == b""


def test_slow_headers_after_an_answer_end_the_connection_too(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert code_of(received(connection)) == 200
        connection.sendall(b"GET /pi")
        assert connection.recv(100) == b""


def test_an_idle_connection_ends(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert code_of(received(connection)) == 200
        assert connection.recv(100) == b""


def test_headers_are_bounded(small: Running) -> None:
    for filler in (b"X-A: " + b"a" * 200_000, b"".join(b"X-%d: a\r\n" % number for number in range(20_000))):
        answer = small.raw(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n" + filler)
        assert code_of(answer) in (0, 400, 431)
    assert small.get("/ping").code == 200


def test_an_answer_does_not_wait_for_a_confirmation(small: Running, soon: Soon) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert code_of(received(connection)) == 200
        (open_,) = small.server.server_state.connections
        accepted = open_.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    soon(lambda: len(small.server.server_state.connections) == 0)


def test_connections_are_bounded(small: Running, soon: Soon) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(small.connect()) for _ in range(21)]
        answer = received(opened[-1])
        assert code_of(answer) == 503
        assert b"retry-after: 1" in answer
        body = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert "too many connections" in body["error"]
    soon(lambda: len(small.server.server_state.connections) == 0)
    assert small.get("/ping").code == 200


def test_an_image_of_too_many_pixels_is_not_decoded(small: Running) -> None:
    answered = small.post("/predict", photo(1, (101, 100)))
    assert (answered.code, "101x100 pixels are more than the allowed 10,000" in answered.json["error"]) == (422, True)
    pixels = {"name": "image", "datatype": "UINT8", "shape": [101, 100, 1], "data": [0] * 10_100}
    wide = {"name": "image", "datatype": "UINT8", "shape": [1, 10_100, 1, 1], "data": [0] * 10_100}
    for sent in (pixels, wide):
        answered = small.post("/v2/models/net/infer", {"inputs": [sent]})
        assert (answered.code, "more than the allowed 10,000" in answered.json["error"]) == (422, True)


def test_a_client_that_does_not_read_is_left(network_file: Path, soon: Soon) -> None:
    with serving(network_file, body_seconds=0.3, idle_seconds=1) as running, running.connect() as connection:
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            for _ in range(3000):  # answers of 20 kB each, none of which is read
                connection.sendall(request)
        soon(lambda: len(running.server.server_state.connections) == 0)
        assert running.get("/ping").code == 200


def test_forms_are_bounded(small: Running) -> None:
    pytest.importorskip("python_multipart")
    many, kind = form([("a.png", b"")] * 180)
    assert small.post("/predict", many, Content_Type=kind).code in (200, 415, 422)
    fields = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number for number in range(100)
    )
    answered = small.post("/predict", fields + b"--B--\r\n", Content_Type="multipart/form-data; boundary=B")
    assert (answered.code, "Too many fields" in answered.json["error"]) == (400, True)
