"""`kcv benchmark predict`: finished models run by kcv and by hand-written PyTorch, taking turns in one process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kcv import __version__, artifact
from kcv.artifact import ArtifactInfo
from kcv.benchmark import networks
from kcv.benchmark.candidates import CLASSES, Setting, keras_model, torch_network
from kcv.common.cores import usable_cores
from kcv.common.files import temporary_folder
from kcv.common.progress import Progress
from kcv.common.timing import PAUSE, interleave
from kcv.config import Config
from kcv.errors import UsageError
from kcv.exporting import formats
from kcv.exporting.graph import quiet_exporter, write_graph
from kcv.exporting.quantization import quantize
from kcv.inference import outputs
from kcv.inference.onnx_model import OnnxInfo, OnnxModel
from kcv.inference.onnx_session import open_session
from kcv.metrics.temperature import softmax
from kcv.models import registry
from kcv.native.device import describe_device

BATCHES, _COLD_STARTS = (1, 32), 3
_SMALL = 32  # pixels, for networks without a pretrained size

Run = Callable[[NDArray[np.uint8]], object]


@dataclass(frozen=True)
class _Candidate:
    """One way to run a finished model.

    Attributes:
        runtime: name of the runtime.
        precision: precision of weights and computation.
        run: called with images, uint8 [n, size, size, 3].
        file: the file that is shipped.
        command: a command that classifies the image given as its last argument, in its own process.
    """

    runtime: str
    precision: str
    run: Run
    file: Path
    command: tuple[str, ...]


def benchmark_prediction(
    *, model: str | None = None, image_size: int | None = None, repeats: int = 20
) -> list[dict[str, Any]]:
    """Measures predictions on the CPU: latency of one image, images/s at batch size 32, cold start and file size.

    The weights are random, as only speed is measured. The PyTorch networks are hand-written (custom CNN) or
    torchvision's; their own export takes normalised float images, as usual, while kcv's takes bytes.

    Args:
        model: one of the benchmarked networks; None for the usual ones (`networks.USUAL`).
        image_size: in pixels; by default 32 for the custom CNN, 224 for the others.
        repeats: timed turns per candidate.

    Returns:
        One row per model, candidate and batch size.
    """
    rows = []
    for name in [model] if model else networks.USUAL:
        setting = Setting(name, image_size or registry.get(name).image_size or _SMALL, max(BATCHES), "float32", "cpu")
        with temporary_folder() as folder:
            rows += _rows(setting, folder, repeats)
    return rows


def _rows(setting: Setting, folder: Path, repeats: int) -> list[dict[str, Any]]:
    candidates = _candidates(setting, folder)
    image = folder / "image.jpg"
    pixels, _ = setting.batch()
    Image.fromarray(pixels[0].numpy()).save(image)
    cold = {one: _cold_start(one, image) for one in candidates}
    rows = []
    for batch_size in BATCHES:
        batch = pixels[:batch_size].numpy()
        with Progress(repeats, f"{setting.model}, batch {batch_size}", unit="turns") as progress:
            works = {one: partial(one.run, batch) for one in candidates}
            seconds = interleave(works, repeats, each=True, pause=PAUSE, advance=progress.advance)
        for one, times in seconds.items():
            rows.append(
                {
                    "model": setting.model,
                    "image_size": setting.image_size,
                    "runtime": one.runtime,
                    "precision": one.precision,
                    "batch_size": batch_size,
                    "p50_ms": 1e3 * statistics.median(times),
                    "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
                    "images_per_second": batch_size / statistics.median(times),
                    "cold_start_s": cold[one],
                    "bytes": one.file.stat().st_size,
                    "hardware": describe_device("cpu"),
                    "threads": usable_cores(),
                    "repeats": repeats,
                }
            )
    return rows


def _candidates(setting: Setting, folder: Path) -> list[_Candidate]:
    model = keras_model(setting)
    return [*_by_kcv(model, setting, folder), *_by_hand(setting, folder)]


def _by_kcv(model: keras.Model, setting: Setting, folder: Path) -> list[_Candidate]:
    keras_file = artifact.save(folder / "kcv.keras", model, _info(model, setting, _names()))
    forward = outputs.native_forward(model)

    def by_keras(pixels: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return softmax(forward(torch.from_numpy(pixels)).numpy())

    copy = keras.models.clone_model(model)  # exporting changes the layout of kernels, and must not slow this model down
    copy.set_weights(model.get_weights())
    files = exported(copy, setting, folder)
    command = (sys.executable, "-m", "kcv", "predict")
    return [
        *(
            _Candidate("kcv-onnx", precision, OnnxModel(file).run, file, (*command, f"--model={file}"))
            for precision, file in files.items()
        ),
        *_in_other_formats(copy, setting, folder, command),
        _Candidate("kcv-keras", "float32", by_keras, keras_file, (*command, f"--model={keras_file}", "--device=cpu")),
    ]


def _in_other_formats(
    model: keras.Model, setting: Setting, folder: Path, command: Sequence[str]
) -> Iterator[_Candidate]:
    """Yields the formats besides ONNX that `kcv predict` runs, as far as their packages are installed."""
    for name in formats.names():
        form = formats.find(name)
        if name == formats.DEFAULT or not form.next.startswith("predict"):
            continue
        try:
            form.require()
        except UsageError:
            continue
        file = folder / f"kcv{form.suffix}"
        more = form.write(formats.Source(model, _described(setting, "float32"), formats.DEFAULT_OPSET), file)
        largest = max((file, *map(file.with_suffix, more)), key=lambda path: path.stat().st_size)
        yield _Candidate(f"kcv-{name}", "float32", form.open(file).compute, largest, (*command, f"--model={file}"))


def _names() -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(CLASSES))


def exported(model: keras.Model, setting: Setting, folder: Path) -> dict[str, Path]:
    """Writes a model as ONNX files, and returns them by precision.

    Args:
        model: the model; the layout of its kernels is changed.
        setting: its setting; int8 is calibrated to its batch.
        folder: the folder of the files.
    """
    files = {precision: folder / f"kcv-{precision}.onnx" for precision in ("float32", "int8")}
    described = {precision: _described(setting, precision) for precision in files}
    write_graph(model, described["float32"], files["float32"])
    quantize(files["float32"], files["int8"], described["int8"], setting.batch()[0].numpy())
    return files


def _described(setting: Setting, precision: str) -> OnnxInfo:
    return OnnxInfo(_names(), setting.image_size, "squash", precision, setting.model, "random", "0", __version__)


def _info(model: keras.Model, setting: Setting, names: tuple[str, ...]) -> ArtifactInfo:
    return ArtifactInfo(
        model_name=setting.model,
        class_names=names,
        image_size=setting.image_size,
        resize="squash",
        precision=setting.policy,
        parameters={"total": model.count_params()},
        data_name="random",
        data_fingerprint="0",
        config=Config.load().model_dump(mode="json"),
        versions={"kcv": __version__},
    )


_TORCH_SCRIPT = """
import sys, numpy, torch
from PIL import Image
network = torch.jit.load(sys.argv[1]).eval()
size = int(sys.argv[2])
image = numpy.asarray(Image.open(sys.argv[3]).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
with torch.inference_mode():
    print(torch.softmax(network(torch.from_numpy(image.copy())[None]), 1).max(1))
"""

_ONNX_SCRIPT = """
import sys, numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
size = int(sys.argv[2])
image = Image.open(sys.argv[3]).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
pixels = ((numpy.asarray(image, numpy.float32) / 255 - mean) / std).astype(numpy.float32)
logits, = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})
print(logits.argmax(1))
"""


def _by_hand(setting: Setting, folder: Path) -> list[_Candidate]:
    """Returns the PyTorch network in its faster memory format, and its own export."""
    formats = (torch.contiguous_format, torch.channels_last)
    pixels, _ = setting.batch()
    eager = min((torch_network(setting, memory).eval() for memory in formats), key=lambda net: _quickest(net, pixels))

    def run(batch: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return torch.softmax(eager(torch.from_numpy(batch)), 1).numpy()

    bare = torch_network(setting, torch.contiguous_format).eval()
    saved, script, graph = folder / "torch.pt", folder / "torch.ts", folder / "torch.onnx"
    torch.save(bare.state_dict(), saved)
    with quiet_exporter():
        torch.jit.save(torch.jit.trace(bare, (pixels[:1],)), script)  # type: ignore[no-untyped-call]
        torch.onnx.export(
            bare.network,
            (torch.zeros(2, 3, setting.image_size, setting.image_size),),
            graph,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = open_session(graph, device="cpu")
    (name,) = (value.name for value in session.get_inputs())
    normalised = bare.normalise(pixels).contiguous().numpy()

    def run_export(batch: NDArray[np.uint8]) -> object:
        return session.run(None, {name: normalised[: len(batch)]})

    start = (sys.executable, "-c")
    size = str(setting.image_size)
    return [
        _Candidate("torch", "float32", run, saved, (*start, _TORCH_SCRIPT, str(script), size)),
        _Candidate("torch-onnx", "float32", run_export, graph, (*start, _ONNX_SCRIPT, str(graph), size)),
    ]


def _quickest(network: torch.nn.Module, pixels: torch.Tensor) -> float:
    """Returns the time in seconds of the fastest of a few batches."""
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            network(pixels)
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def _cold_start(one: _Candidate, image: Path) -> float:
    """Returns the median time in seconds of a whole process that classifies one image."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for _ in range(1 + _COLD_STARTS):
        began = time.perf_counter()
        subprocess.run([*one.command, str(image)], check=True, capture_output=True, env=environment)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])  # the first one reads files that are not in memory yet
