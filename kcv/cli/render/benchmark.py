"""Tables of benchmark results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kcv.cli import terminal
from kcv.cli.console import table
from kcv.cli.parsing import Call


def show(rows: Sequence[Mapping[str, Any]], call: Call) -> int:
    """Shows the rows of a benchmark."""
    if call.as_json:
        terminal.json_of(rows)
    else:
        terminal.show(TABLES[call.arguments["what"]](rows))
    return 0


def training_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of training steps: images/s per contestant, the ratios, and the fraction of the peak rate."""
    header = ("model", "px", "batch", "precision", "PyTorch/s", "Keras/s", "kcv/s", "kcv:PyTorch", "kcv:Keras", "peak")
    body = []
    for row in rows:
        rates = row["images_per_second"]
        ratios = (f"{row['kcv_over_torch']:.2f}x", f"{row['kcv_over_keras']:.2f}x")
        setting = (row["model"], str(row["image_size"]), str(row["batch_size"]), row["precision"])
        body.append((*setting, *(f"{rates[name]:,.0f}" for name in ("torch", "keras", "kcv")), *ratios, _share(row)))
    first = rows[0]
    peaks = {row["precision"]: f"{row['matrix_gflop_per_second']:,.0f}" for row in rows}
    hardware = f"{first['device']}: {first['hardware']}, {first['threads']} threads"
    return (
        f"{table(body, header=header)}\n\n"
        f"  {hardware}; medians of {first['repeats']} turns; images/s\n"
        f"  peak: part of the rate of matrix products here, GFLOP/s: "
        + ", ".join(f"{peak} in {precision}" for precision, peak in peaks.items())
    )


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * row['peak_fraction']:.0f}%"


def data_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of decoding and augmentation: one line per step and library."""
    header = ("step", "px", "batch", "by", "device", "images/s", "kcv over it")
    body = []
    for row in rows:
        rates = row["images_per_second"]
        for name, rate in rates.items():
            device = "cpu" if name in ("torchvision", "keras_cv") else row["device"]
            ratio = f"{rates['kcv'] / rate:.2f}x"
            setting = (row["step"], str(row["image_size"]), str(row["batch_size"]), name, device)
            body.append((*setting, f"{rate:,.0f}", ratio))
    first = rows[0]
    note = f"  {first['hardware']}, {first['threads']} threads; medians of {first['repeats']} turns; images/s"
    return f"{table(body, header=header, words=(0, 3, 4))}\n\n{note}"


def memory_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of memory by number of images."""
    header = ("images", "encoded MB", "row groups", "peak MB", "worker MB", "images/s")
    body = [
        (
            f"{row['pictures']:,}",
            f"{row['encoded_bytes'] / 1e6:,.0f}",
            f"{row['row_groups']:,}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            "-" if row["workers_peak_bytes"] is None else f"{row['workers_peak_bytes'] / 1e6:,.0f}",
            f"{row['images_per_second']:,.0f}",
        )
        for row in rows
    ]
    first = rows[0]
    return (
        f"{table(body, header=header, words=())}\n\n"
        f"  {first['hardware']}; one epoch of training batches streamed from Parquet shards, in a process of its own\n"
        f"  {first['shuffle_buffer_mb']} MB of encoded images are held and mixed; {first['workers']} worker"
    )


def scaling_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of training steps in several processes, with the predictions of the cost model."""
    header = ("model", "px", "batch", "alone ms", "together ms", "predicted", "waiting", "predicted", "images/s")
    body = [
        (
            row["model"],
            str(row["image_size"]),
            str(row["batch_size"]),
            *(f"{row[key]:.1f}" for key in ("alone_ms", "together_ms", "predicted_together_ms")),
            *(f"{100 * row[key]:.0f}%" for key in ("measured_share", "predicted_share")),
            f"{row['images_per_second']:,.0f}",
        )
        for row in rows
    ]
    first = rows[0]
    link = first["link"]
    where = f"{first['processes']} processes of {first['threads']} threads on {first['machines']} machines"
    return (
        f"{table(body, header=header)}\n\n"
        f"  {where}: {first['hardware']}; medians of {first['repeats']} turns\n"
        f"  link: {1e3 * link['latency']:.3f} ms a message, {link['bandwidth'] / 1e6:,.0f} MB/s"
    )


def prediction_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of predictions: latency, throughput, cold start and size per runtime."""
    header = ("model", "px", "runtime", "precision", "batch", "p50 ms", "p95 ms", "images/s", "cold start s", "MB")
    body = [
        (
            row["model"],
            str(row["image_size"]),
            row["runtime"],
            row["precision"],
            str(row["batch_size"]),
            f"{row['p50_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
            f"{row['images_per_second']:,.0f}",
            "-" if row["cold_start_s"] is None else f"{row['cold_start_s']:.2f}",
            f"{row['bytes'] / 1e6:.1f}",
        )
        for row in rows
    ]
    first = rows[0]
    return (
        f"{table(body, header=header, words=(0, 2, 3))}\n\n"
        f"  {first['hardware']}, {first['threads']} threads; medians of {first['repeats']} turns\n"
        "  cold start: the whole command for one image, Python's start included\n"
        "  torch-onnx takes images that are normalised already, kcv-onnx takes bytes"
    )


TABLES = {
    "train": training_benchmark,
    "predict": prediction_benchmark,
    "data": data_benchmark,
    "memory": memory_benchmark,
    "scaling": scaling_benchmark,
}
