"""`kcv benchmark serve`: the server beside prediction in one process, on the same machine and in turns."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kcv.benchmark import networks, prediction
from kcv.benchmark.candidates import Setting, keras_model
from kcv.benchmark.http_load import Load, load
from kcv.common.cores import usable_cores
from kcv.common.files import temporary_folder
from kcv.common.progress import Progress
from kcv.errors import KcvError
from kcv.inference.onnx_model import OnnxModel
from kcv.inference.prediction import Job, classified
from kcv.models import registry
from kcv.native.device import describe_device

_SMALL = 32  # pixels, for networks without a pretrained size
_CONNECTIONS = 64
_TURN_SECONDS = 2.0
_OVERLOAD, _OVERLOAD_SECONDS, _OVERLOAD_CONNECTIONS = 2.0, 8.0, 900
_SINGLE = 100  # requests of an idle server per turn
_IMAGES = 64
_PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class _Server:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    ready_seconds: float

    @property
    def cpu_seconds(self) -> float | None:
        """The CPU time that it has taken; None where Linux does not tell."""
        try:
            values = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks = os.sysconf("SC_CLK_TCK")
        except (OSError, AttributeError):
            return None
        return (int(values[11]) + int(values[12])) / ticks

    @property
    def memory(self) -> int | None:
        """Its resident memory in bytes; None where Linux does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return None
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def benchmark_serving(
    *, model: str | None = None, image_size: int | None = None, repeats: int = 20
) -> list[dict[str, Any]]:
    """Measures `kcv serve` beside the same model in one process.

    In turns: prediction from files in this process, as `kcv predict` does it, and the server under 64 connections; one
    image at a time in this process, and one request at a time. Then twice the measured rate is offered, whether or not
    answers come. Client and server share the cores, so the server has fewer of them than the process beside it.

    Args:
        model: one of the benchmarked networks; None for all of them.
        image_size: in pixels; by default 32 for the custom CNN, 224 for the others.
        repeats: turns.

    Returns:
        One row per model and precision.
    """
    rows = []
    for name in [model] if model else networks.NAMES:
        size = image_size or registry.get(name).image_size or _SMALL
        setting = Setting(name, size, _IMAGES, "float32", "cpu")
        with temporary_folder() as folder:
            files = prediction.exported(keras_model(setting), setting, folder)
            images = _images(folder, size)
            for precision, file in files.items():
                rows.append({"model": name, "precision": precision, **_row(file, images, repeats)})
    return rows


def _images(folder: Path, size: int) -> list[Path]:
    """Writes JPEG files of smooth random images at the model's size; noise decodes more slowly than photographs."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(_IMAGES):
        rough = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        paths.append(folder / f"{number}.jpg")
        rough.resize((size, size), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _row(file: Path, images: Sequence[Path], repeats: int) -> dict[str, Any]:
    model = OnnxModel(file, device="cpu", threads=1)
    job = Job(model, 5, model.preferred_batch, None)
    body = images[0].read_bytes()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    here: list[_Turn] = []
    served: list[Load] = []
    here_single: list[float] = []
    served_single: list[float] = []
    served_cpu: list[float] = []
    with _server(file) as server, Progress(repeats, file.stem, unit="turns") as progress:
        load(server.port, request, connections=_CONNECTIONS, seconds=1.0)  # warm
        for _ in range(repeats):
            here.append(_turn_here(job, images, _TURN_SECONDS))
            before = server.cpu_seconds
            served.append(load(server.port, request, connections=_CONNECTIONS, seconds=_TURN_SECONDS))
            after = server.cpu_seconds
            if before is not None and after is not None:
                served_cpu.append((after - before) / max(1, len(served[-1].accepted)))
            here_single += _single_here(job, images[0])
            served_single += _single_served(server.port, request)
            progress.advance()
        rates = [len(one.accepted) / one.seconds for one in served]
        rate = statistics.median(rates)
        over = load(
            server.port, request, connections=_OVERLOAD_CONNECTIONS, seconds=_OVERLOAD_SECONDS, rate=_OVERLOAD * rate
        )
        memory = server.memory
    latencies = [seconds for one in served for seconds in one.accepted]
    return {
        "image_size": model.image_size,
        "image_bytes": len(body),
        "here_per_second": statistics.median(turn.rate for turn in here),
        "served_per_second": rate,
        "served_over_here": statistics.median(rate / turn.rate for turn, rate in zip(here, rates, strict=True)),
        "here_cpu_ms": 1e3 * statistics.median(turn.cpu_seconds for turn in here),
        "served_cpu_ms": 1e3 * statistics.median(served_cpu) if served_cpu else None,
        "served_p50_ms": _ms(latencies, 0.5),
        "served_p99_ms": _ms(latencies, 0.99),
        "idle_here_p50_ms": _ms(here_single, 0.5),
        "idle_served_p50_ms": _ms(served_single, 0.5),
        "idle_served_p99_ms": _ms(served_single, 0.99),
        "offered_per_second": _OVERLOAD * rate,
        "overload_accepted_per_second": len(over.accepted) / over.seconds,
        "overload_accepted_p99_ms": _ms(over.accepted, 0.99),
        "overload_refused_per_second": len(over.refused) / over.seconds,
        "overload_refused_p99_ms": _ms(over.refused, 0.99),
        "overload_unsent": over.unsent,
        "failed": over.others + sum(one.others + len(one.refused) for one in served),
        "ready_seconds": server.ready_seconds,
        "memory_bytes": memory,
        "http": "httptools" if importlib.util.find_spec("httptools") else "h11",
        "hardware": describe_device("cpu"),
        "threads": usable_cores(),
        "repeats": repeats,
    }


@dataclass(frozen=True)
class _Turn:
    """A turn in this process: images/s, and CPU seconds per image."""

    rate: float
    cpu_seconds: float


def _turn_here(job: Job, images: Sequence[Path], seconds: float) -> _Turn:
    """Classifies images with the loop of `kcv predict` for some seconds."""
    began, cpu = time.perf_counter(), time.process_time()

    def files() -> Iterator[Path]:
        while time.perf_counter() < began + seconds:
            yield from images

    count = sum(len(rows) for rows in classified(job, files()))
    return _Turn(count / (time.perf_counter() - began), (time.process_time() - cpu) / count)


def _single_here(job: Job, image: Path) -> list[float]:
    times = []
    for _ in range(_SINGLE):
        began = time.perf_counter()
        job.classify([image], job.decode([image]))
        times.append(time.perf_counter() - began)
    return times


def _single_served(port: int, request: bytes) -> list[float]:
    """Returns the seconds of single requests to a server that has nothing else to do."""
    found: list[float] = []
    while len(found) < _SINGLE:
        found += load(port, request, connections=1, seconds=0.1).accepted
    return found[:_SINGLE]


@contextlib.contextmanager
def _server(file: Path) -> Iterator[_Server]:
    """Runs `kcv serve` for the duration of the block."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "kcv", "serve", str(file), "--port=0", "--drain_seconds=0", "--connections=2000"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    assert process.stderr is not None
    try:
        port = 0
        while not port:
            line = process.stderr.readline()
            if not line:
                raise KcvError(f"the server did not start (exit code {process.wait()})")
            if line.startswith(b"serving at"):
                port = int(line.strip().rpartition(b":")[2])
        yield _Server(process, port, time.perf_counter() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


def _ms(seconds: Sequence[float], quantile: float) -> float | None:
    """Returns a quantile in milliseconds; None if there are no times."""
    return 1e3 * float(np.quantile(seconds, quantile)) if seconds else None
