"""`kcv benchmark memory`: the memory needed to stream from Parquet, by number of images."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from kcv.common.files import temporary_folder
from kcv.common.parameters import renamed
from kcv.common.progress import Progress
from kcv.config import AugmentConfig, DataConfig
from kcv.data import loading
from kcv.data.batches import TrainingBatches
from kcv.data.parquet import source as parquet
from kcv.data.row_images import RowImages
from kcv.errors import OutputError
from kcv.native.device import describe_device

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SIZES = (10_000, 100_000, 1_000_000)
"""Sizes of the sets in images, each ten times the previous one."""

_SIDE = 32  # px
_DIFFERENT = 1000  # distinct images; the sets repeat them
_GROUP = 1000  # rows per row group
_SHARD = 50_000  # rows per file
_CLASSES = 10
_BUFFER_MB = 8  # small compared to the sets, so that holding a set in memory would show
_WORKERS = 1


@renamed(pictures="images")
def benchmark_memory(
    *, images: int = SIZES[-1], image_size: int = _SIDE, batch_size: int = 256
) -> list[dict[str, Any]]:
    """Measures an epoch of streamed training batches, for growing sets of small JPEG images, each in a new process.

    The sets are written to a temporary folder and removed afterwards.

    Args:
        images: size of the largest set.
        image_size: size in pixels that images are resized to.
        batch_size: images per batch.

    Returns:
        One row per set: `peak_bytes` of the process (None on Windows), `workers_peak_bytes` of the largest worker,
        images/s.

    Raises:
        OutputError: there is not enough disk space for the largest set.
    """
    encoded = _images()
    need = 2 * images * sum(map(len, encoded)) // len(encoded)
    rows = []
    with temporary_folder("kcv-memory-") as folder:
        if shutil.disk_usage(folder).free < need:
            raise OutputError(f"{folder}: the set of {images:,} images needs {need / 1e6:,.0f} MB of free disk")
        for count in [size for size in SIZES if size < images] + [images]:
            place = folder / str(count)
            _write(place, count, encoded)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                measured = pool.submit(_measure, str(place), image_size, batch_size).result()
            rows.append({**measured, "hardware": describe_device("cpu")})
            shutil.rmtree(place)
    return rows


def _measure(place: str, image_size: int, batch_size: int) -> dict[str, Any]:
    """Runs in its own process, because peak memory never decreases."""
    parquet.EAGER_BYTES = 0  # keeps the small sets on disk too
    config = DataConfig(source=place, image_size=image_size, memory_budget_mb=0, val_fraction=0.01, test_fraction=0)
    dataset = loading.load(config)
    rows = dataset.train.samples.images
    if not isinstance(rows, RowImages):
        raise TypeError("the set was read into memory")
    batches = TrainingBatches(
        dataset.train,
        num_classes=_CLASSES,
        batch_size=batch_size,
        augment=AugmentConfig(flip="random"),
        seed=0,
        device="cpu",
        workers=_WORKERS,
        shuffle_buffer=_BUFFER_MB * 2**20,
    )
    began = time.perf_counter()
    seen = sum(len(images) for images, _ in batches.loader())
    seconds = time.perf_counter() - began
    workers_peak = _peak_below(os.getpid())
    batches.close()
    return {
        "pictures": len(dataset.train) + len(dataset.val),
        "encoded_bytes": rows.groups.encoded_bytes,
        "row_groups": len(rows.groups.ends),
        "image_size": image_size,
        "batch_size": batch_size,
        "shuffle_buffer_mb": _BUFFER_MB,
        "workers": _WORKERS,
        "peak_bytes": _peak(),
        "workers_peak_bytes": workers_peak,
        "images_per_second": seen / seconds,
    }


def _peak() -> int | None:
    """Returns the peak memory (bytes) of this process; None if the system does not report it."""
    known: Any = resource
    if known is None:
        return None
    return int(known.getrusage(known.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _peak_below(ancestor: int) -> int | None:
    """Returns the peak memory (bytes) of any single descendant process; None if Linux does not report it."""
    if sys.platform != "linux":
        return None
    parents, peaks = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
            parents[int(status.parent.name)] = int(lines["PPid"])
            peaks[int(status.parent.name)] = int(lines["VmHWM"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):  # it has ended, or is a kernel process
            continue
    below = {ancestor}
    while more := {process for process, parent in parents.items() if parent in below} - below:
        below |= more
    return max((peaks[process] for process in below - {ancestor} if process in peaks), default=None)


def _images() -> list[bytes]:
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(_DIFFERENT):
        stream = io.BytesIO()
        rough = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        rough.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        encoded.append(stream.getvalue())
    return encoded


def _write(folder: Path, count: int, encoded: list[bytes]) -> None:
    folder.mkdir()
    names = [f"class {i}" for i in range(_CLASSES)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("label", pa.int64())], {"huggingface": json.dumps({"info": {"features": features}})}
    )
    with Progress(count, f"making {count:,} images") as progress:
        for shard, begin in enumerate(range(0, count, _SHARD)):
            end = min(begin + _SHARD, count)
            # No dictionary encoding: it would store repeated values only once.
            with pq.ParquetWriter(folder / f"train-{shard:05d}.parquet", schema, use_dictionary=False) as writer:
                for start in range(begin, end, _GROUP):
                    rows = range(start, min(start + _GROUP, end))
                    values = [{"bytes": encoded[i % len(encoded)], "path": None} for i in rows]
                    table = pa.table([pa.array(values, image), [i % _CLASSES for i in rows]], schema)
                    writer.write_table(table, row_group_size=_GROUP)
            progress.advance(end - begin)
