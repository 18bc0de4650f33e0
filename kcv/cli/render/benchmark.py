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
    """Returns the table of training steps: images/s per candidate, the ratios, and the fraction of the peak rate."""
    header = ("model", "px", "batch", "precision", "PyTorch/s", "Keras/s", "kcv/s", "kcv:PyTorch", "kcv:Keras", "peak")
    body = []
    for row in rows:
        rates = row["images_per_second"]
        ratios = (_ratio(row["kcv_over_torch"]), _ratio(row["kcv_over_keras"]))
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
        + "".join(_unclear(row) for row in rows)
        + "".join(_profile(row) for row in rows if "profile" in row)
    )


def _ratio(ratio: float | None) -> str:
    return "unclear" if ratio is None else f"{ratio:.2f}x"


def _unclear(row: Mapping[str, Any]) -> str:
    """Returns a line for each ratio that is not quoted."""
    beside = {"torch": "PyTorch", "keras": "Keras"}
    return "".join(
        f"\n  {row['model']}: too noisy to compare with {beside[name]} (quartiles {low:.2f}x to {high:.2f}x); stop "
        "other work, or raise --repeats"
        for name in beside
        if row[f"kcv_over_{name}"] is None
        for low, high in [row[f"kcv_over_{name}_quartiles"]]
    )


def _profile(row: Mapping[str, Any]) -> str:
    """Returns the table of operations by kind, of kcv beside PyTorch."""
    ours, theirs = ({one["kind"]: one for one in row["profile"][name]} for name in ("kcv", "torch"))
    kinds = [*ours, *(kind for kind in theirs if kind not in ours)]
    nothing = {"milliseconds": 0.0, "fraction": 0.0}
    body = [(kind, *(cell for one in (ours, theirs) for cell in _time(one.get(kind, nothing)))) for kind in kinds]
    header = (row["model"], "kcv ms", "", "PyTorch ms", "")
    return f"\n\n{table(body, header=header)}"


def _time(one: Mapping[str, Any]) -> tuple[str, str]:
    return f"{one['milliseconds']:.2f}", f"{100 * one['fraction']:.0f}%"


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
            *("-" if row[peak] is None else f"{row[peak] / 1e6:,.0f}" for peak in ("peak_bytes", "workers_peak_bytes")),
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


def serving_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the tables of the server: beside prediction in one process, and at twice the rate that it can answer."""
    setting = [(row["model"], str(row["image_size"]), row["precision"]) for row in rows]
    beside = (
        "model",
        "px",
        "precision",
        "here/s",
        "served/s",
        "ratio",
        "CPU ms",
        "served",
        "p50 ms",
        "p99 ms",
        "idle ms",
        "served",
    )
    speed = [
        (
            *setting[number],
            f"{row['here_per_second']:,.0f}",
            f"{row['served_per_second']:,.0f}",
            f"{row['served_over_here']:.2f}",
            *(_short(row[key], 2) for key in ("here_cpu_ms", "served_cpu_ms")),
            *(_short(row[key]) for key in ("served_p50_ms", "served_p99_ms", "idle_here_p50_ms", "idle_served_p50_ms")),
        )
        for number, row in enumerate(rows)
    ]
    twice = ("model", "px", "precision", "offered/s", "answered/s", "p99 ms", "503/s", "p99 ms", "ready s", "MB")
    overload = [
        (
            *setting[number],
            f"{row['offered_per_second']:,.0f}",
            f"{row['overload_accepted_per_second']:,.0f}",
            _short(row["overload_accepted_p99_ms"]),
            f"{row['overload_refused_per_second']:,.0f}",
            _short(row["overload_refused_p99_ms"]),
            f"{row['ready_seconds']:.2f}",
            "-" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:,.0f}",
        )
        for number, row in enumerate(rows)
    ]
    first = rows[0]
    return (
        f"{table(speed, header=beside, words=(0, 2))}\n\n{table(overload, header=twice, words=(0, 2))}\n\n"
        f"  {first['hardware']}, {first['threads']} cores for server and client together; medians of "
        f"{first['repeats']} turns; HTTP by {first['http']}\n"
        "  here: the loop of kcv predict in one process; served: under 64 connections\n"
        "  CPU ms: of one image, here and in the server; idle: one request at a time, here and in the server"
    )


def _short(milliseconds: float | None, digits: int = 1) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.{digits}f}"


TABLES = {
    "train": training_benchmark,
    "predict": prediction_benchmark,
    "serve": serving_benchmark,
    "data": data_benchmark,
    "memory": memory_benchmark,
    "scaling": scaling_benchmark,
}
