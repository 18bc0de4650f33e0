"""The command itself: what it loads, how it starts and ends, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served_images import photo
from serving import PATIENCE, received, serving

from kcv.errors import ArtifactError, OutputError, UsageError
from kcv.serving.server import _listen, listen
from kcv.tasks.serve import serve

ROOT = Path(__file__).resolve().parents[2]
PHOTO = photo(1)
Server = tuple["subprocess.Popen[str]", int]

WATCHED = """
import sys
from kcv.cli import main
code = main(sys.argv[1:])
print("LOADED", *sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


@contextlib.contextmanager
def started(*words: object, code: str = WATCHED) -> Iterator[Server]:
    """Starts `kcv serve` on a free port, and waits until it is ready."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *map(str, words), "--port=0"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    try:
        for line in child.stderr:
            if "serving at" in line:
                yield child, int(line.strip().rpartition(":")[2])
                break
        else:
            raise AssertionError(f"the server did not start: {child.wait()}")
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def post(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", "/predict", PHOTO)
        return connection.getresponse().status
    finally:
        connection.close()


def test_an_onnx_model_is_served_without_keras_and_torch_and_sigterm_ends_well(network_file: Path) -> None:
    with started(network_file, "--drain_seconds=0") as (child, port):
        assert post(port) == 200
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0
    assert out == "1 requests answered\n"
    loaded = {name.partition(".")[0] for name in err.rpartition("LOADED")[2].split()}
    assert {"onnxruntime", "starlette", "uvicorn"} <= loaded
    heavy = {
        "torch",
        "keras",
        "mlflow",
        "fastapi",
        "scipy",
        "sklearn",
        "pandas",
        "matplotlib",
        "pyarrow",
        "onnx",
        "h5py",
    }
    assert not loaded & heavy


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
def test_workers_let_the_requests_go_first(network_file: Path) -> None:
    """Otherwise a refusal waits for images."""
    with started(network_file, "--drain_seconds=0") as (child, port):
        assert post(port) == 200
        niceness = {
            int(task.name): int((task / "stat").read_text().rpartition(")")[2].split()[16])
            for task in Path(f"/proc/{child.pid}/task").iterdir()
        }
    loop = niceness.pop(child.pid)
    expected = min(loop + 5, 19)
    assert list(niceness.values()).count(expected) >= 1
    assert all(nice in (loop, expected) for nice in niceness.values())


def test_after_sigterm_it_is_not_ready_but_answers_until_the_end(network_file: Path) -> None:
    with started(network_file, "--drain_seconds=2") as (child, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        child.send_signal(signal.SIGTERM)
        while True:
            connection.request("GET", "/v2/health/ready")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 503:
                break
        assert answer.getheader("connection") == "close"
        assert post(port) == 200
        connection.close()
        child.communicate(timeout=PATIENCE)
    assert child.returncode == 0


def test_a_second_signal_ends_at_once(network_file: Path) -> None:
    with started(network_file, "--drain_seconds=3600") as (child, port):
        child.send_signal(signal.SIGTERM)
        while http_ready(port):
            pass
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=PATIENCE)
    assert child.returncode == 0


def http_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/v2/health/ready")
    try:
        return connection.getresponse().status == 200
    finally:
        connection.close()


def test_requests_that_are_under_way_are_answered_before_the_end(
    network_file: Path, monkeypatch: pytest.MonkeyPatch, soon: Callable[[Callable[[], bool]], None]
) -> None:
    from kcv.inference.onnx_model import OnnxModel

    opened = threading.Event()
    whole = OnnxModel.predict_pixels

    def slow(model: OnnxModel, pixels: Any) -> Any:
        if threading.current_thread().name.startswith("kcv-"):
            assert opened.wait(PATIENCE)
        return whole(model, pixels)

    monkeypatch.setattr(OnnxModel, "predict_pixels", slow)
    with serving(network_file) as running, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(running.post, "/predict", PHOTO) for _ in range(8)]
        soon(lambda: len(running.server.server_state.tasks) == 8)
        running.server.loop.call_soon_threadsafe(running.server.stop, 0)
        soon(lambda: not running.service.is_ready)
        opened.set()
        assert [one.result().code for one in asked] == [200] * 8


def test_a_port_in_use_or_an_address_of_another_machine_is_told_in_one_line(network_file: Path) -> None:
    with (
        listen("127.0.0.1", 0) as taken,
        pytest.raises(OutputError, match=r"cannot listen on 127\.0\.0\.1, port") as told,
    ):
        serve(network_file, port=taken.getsockname()[1])
    assert "\n" not in str(told.value)
    with pytest.raises(OutputError, match=r"cannot listen on 192\.0\.2\.1"):
        serve(network_file, host="192.0.2.1", port=0, open=True)
    with pytest.raises(UsageError, match=r"--host=no\.such\.invalid"):
        serve(network_file, host="no.such.invalid", port=0, open=True)
    with pytest.raises(UsageError, match="--port: received 70000"):
        serve(network_file, port=70_000)


def test_a_model_that_cannot_be_opened_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model file"):
        serve(tmp_path / "none.onnx", port=0)
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(ArtifactError, match="cannot be opened as an ONNX model"):
        serve(tmp_path / "bad.onnx", port=0)


@pytest.mark.parametrize("name", ["uvicorn", "starlette.applications"])
def test_without_its_packages_it_says_what_to_install(
    network_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import kcv.serving

    monkeypatch.delattr(kcv.serving, "server")  # loaded again
    for loaded in ("kcv.serving.server", "kcv.serving.app"):
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(UsageError, match=rf"serve needs {name}: pip install 'kcv\[serve\]'\."):
        serve(network_file, port=0)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, path = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-keyout", key, "-out", path, "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost"]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl to make a certificate")
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def test_tls(network_file: Path, certificate: Path) -> None:
    with started(network_file, f"--certfile={certificate}", "--drain_seconds=0") as (child, port):
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
        connection.request("POST", "/predict", PHOTO)
        assert connection.getresponse().status == 200
        connection.close()
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=PATIENCE)
    assert child.returncode == 0


def test_a_certificate_that_cannot_be_used_is_refused(network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for name in ("bad.pem", "none.pem"):
        with pytest.raises(UsageError, match="--certfile, --keyfile: cannot be used"):
            serve(network_file, port=0, certfile=tmp_path / name)
    with pytest.raises(UsageError, match="--keyfile needs --certfile"):
        serve(network_file, port=0, keyfile=tmp_path / "key.pem")


def test_a_server_in_a_thread_of_a_program(network_file: Path) -> None:
    """What a notebook does; signals stay with the program."""
    before = signal.getsignal(signal.SIGTERM)
    with serving(network_file) as running:
        assert running.post("/predict", PHOTO).code == 200
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_both_parsers_of_http_serve(network_file: Path, monkeypatch: pytest.MonkeyPatch, parser: str) -> None:
    if parser == "httptools":
        pytest.importorskip("httptools", reason="needs httptools, of the extra serve")
    else:
        monkeypatch.setitem(sys.modules, "httptools", None)
        monkeypatch.delitem(sys.modules, "uvicorn.protocols.http.httptools_impl", raising=False)
    with serving(network_file, header_seconds=0.3, idle_seconds=1) as running:
        base = running.server.config.http_protocol_class.__mro__[2]
        assert base.__module__.endswith(f"{parser}_impl")
        assert running.post("/predict", PHOTO).code == 200
        with running.connect() as connection:
            connection.sendall(b"GET /ping HT")
            assert connection.recv(100) == b""
        asked = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert running.raw(asked).startswith(b"HTTP/1.1 400")


@pytest.mark.long
def test_restarts_under_load_lose_no_request_that_was_accepted(network_file: Path) -> None:
    """Twenty restarts on one port while eight clients ask; each answer that began must come whole."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop, answered, lost = threading.Event(), [0], []
    lock = threading.Lock()

    def ask() -> None:
        while not stop.is_set():
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            except OSError:  # no server listens: nothing was accepted
                time.sleep(0.01)
                continue
            with connection:
                asked(connection)

    def asked(connection: socket.socket) -> None:
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PHOTO)}\r\n\r\n".encode()
        while not stop.is_set():
            try:
                connection.sendall(head + PHOTO)
            except OSError:
                return  # closed before the request was sent
            answer = received(connection)
            if not answer:
                return  # closed before the request was taken up
            if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"]}]}"):
                lost.append(answer)
            with lock:
                answered[0] += 1
            if b"connection: close" in answer.lower():
                return

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
    codes, total = [], 0
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-m", "kcv", "serve", network_file, f"--port={port}", "--drain_seconds=0.3"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        before = answered[0]
        end = time.monotonic() + PATIENCE
        while answered[0] < before + 500 and time.monotonic() < end:
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=PATIENCE)
        codes.append(child.returncode)
        total += int(out.split()[0].replace(",", ""))
    stop.set()
    for client in clients:
        client.join(PATIENCE)
    assert codes == [0] * 20
    assert lost == []
    assert answered[0] >= 10_000
    assert total == answered[0], "the server answered requests whose answers did not arrive"


def test_the_extra_brings_what_the_messages_name() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["serve"]
    names = {line.partition(">")[0] for line in extras}
    assert {"starlette", "uvicorn", "prometheus-client", "python-multipart", "httptools"} == names
    assert importlib.util.find_spec("starlette") is not None


def test_signals_come_through_where_the_event_loop_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    before = signal.getsignal(signal.SIGTERM)

    def refuse(*_: object) -> None:
        raise NotImplementedError

    async def wait() -> bool:
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        monkeypatch.setattr(loop, "add_signal_handler", refuse)
        _listen(loop, signal.SIGTERM, came.set)
        signal.raise_signal(signal.SIGTERM)
        return await asyncio.wait_for(came.wait(), PATIENCE)

    try:
        assert asyncio.run(wait())
    finally:
        signal.signal(signal.SIGTERM, before)
