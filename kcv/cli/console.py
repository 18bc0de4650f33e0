"""Results as text for the terminal: tables and summaries. Builds strings; main.py prints them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from kcv.artifact import ArtifactInfo
    from kcv.models.catalog import Entry
    from kcv.training import Run

_CODES = {"bold": "1", "dim": "2", "green": "32", "red": "31"}


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Returns text in a style where the stream (stdout) is a terminal and NO_COLOR is not set."""
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\033[{_CODES[style]}m{text}\033[0m"


def program(name: str = "kcv") -> str:
    """Returns a program (kcv) as it is called here, so that the commands that kcv suggests can be pasted."""
    if name == "kcv" and Path(sys.argv[0]).name == "__main__.py":
        name = "python -m kcv"
    return f"uv run {name}" if os.environ.get("UV_RUN_RECURSION_DEPTH") else name


def table(
    rows: Iterable[Sequence[str]],
    *,
    header: Sequence[str] | None = None,
    indent: int = 2,
    words: Container[int] = (0,),
) -> str:
    """Returns rows as columns: those of `words` to the left, the others, numbers, to the right."""
    body = [list(row) for row in rows]
    everything = [list(header), *body] if header else body
    if not everything:
        return ""
    widths = [max(len(row[i]) for row in everything) for i in range(len(everything[0]))]
    lines = [
        " " * indent
        + "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    ]
    if header:
        lines[0] = paint(lines[0], "dim")
    return "\n".join(lines)


def pairs(values: Mapping[str, Any]) -> str:
    """Returns names and values as two columns to the left."""
    width = max(map(len, values))
    return "\n".join(f"  {paint(name.ljust(width), 'dim')}  {value}" for name, value in values.items())


def percent(value: float | None) -> str:
    """Returns 0.98765 as `98.77%`, None as `-`."""
    return "-" if value is None else f"{100 * value:.2f}%"


def number(value: float | None) -> str:
    """Returns a number with four digits behind the point, None as `-`."""
    return "-" if value is None else f"{value:.4f}"


def with_interval(metrics: Mapping[str, Any]) -> str:
    """Returns the accuracy with its 95% interval and the number of pictures."""
    low, high = metrics["accuracy_ci95"]
    return f"{percent(metrics['accuracy'])} (95% interval {percent(low)} to {percent(high)}, n = {metrics['n']:,})"


def per_class(metrics: Mapping[str, Any]) -> str:
    """Returns the table of precision, recall, F1 and support."""
    rows = [
        (name, *(number(scores[column]) for column in ("precision", "recall", "f1")), str(scores["support"]))
        for name, scores in metrics["per_class"].items()
    ]
    return table(rows, header=("class", "precision", "recall", "f1", "support"))


def run_summary(run: Run) -> str:
    """Returns what a training came to, and what to do next."""
    metrics = run.metrics
    rows = {
        f"{metrics['split']} accuracy": paint(with_interval(metrics), "bold"),
        "best epoch": f"{run.best_epoch} of {len(run.history)}",
        "time": f"{run.seconds:.0f} s",
        "model": run.model_path,
        "tracking": run.tracking or "off",
    }
    model = shlex.quote(str(run.model_path))
    commands = [
        f"{program()} info {model}",
        f"{program()} evaluate {model}",
        f"{program()} predict PICTURE --model={model}",
    ]
    if run.tracking and run.tracking.startswith("sqlite"):
        commands.append(f"{program('mlflow')} ui --backend-store-uri {shlex.quote(run.tracking)}")
    return "\n".join(["", pairs(rows), "", "Next:", *(f"  {command}" for command in commands)])


def model_card(content: ArtifactInfo, path: Path) -> str:
    """Returns what a model file says of itself."""
    names = content.class_names
    shown = ", ".join(names[:20]) + (f" ... and {len(names) - 20} more" if len(names) > 20 else "")
    rows: dict[str, Any] = {
        "model": f"{content.model_name}, {_parameters(content)}, trained in {content.precision}",
        "classes": f"{len(names)}: {shown}",
        "input": f"{content.image_size}x{content.image_size} RGB, other sizes: {content.resize}",
        "data": f"{content.data_name} (fingerprint {content.data_fingerprint[:12]})",
        "best epoch": content.best_epoch if content.best_epoch is not None else "-",
    }
    if content.metrics:
        rows[f"{content.metrics['split']} accuracy"] = with_interval(content.metrics)
    rows["made"] = f"{content.created:%Y-%m-%d %H:%M} UTC with " + ", ".join(
        f"{name} {version}" for name, version in content.versions.items()
    )
    rows["file"] = f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    return pairs(rows)


def _parameters(content: ArtifactInfo) -> str:
    total, trained = content.parameters["total"], content.parameters.get("trainable")
    return f"{total:,} parameters" + (f" ({trained:,} of them learned)" if trained not in (None, total) else "")


def model_list(entries: Sequence[Entry]) -> str:
    """Returns the table of architectures."""
    header = ("model", "parameters", "smallest px", "ImageNet px", "ImageNet weights", "for")
    rows = [
        (
            entry.name,
            f"{entry.parameters / 1e6:.1f}M",
            str(entry.min_image_size),
            str(entry.image_size or "-"),
            entry.weights_here,
            entry.best_for,
        )
        for entry in entries
    ]
    train = f"{program()} train --model=NAME --data=path/to/pictures"
    return f"{table(rows, header=header, words=(0, 4, 5))}\n\n  parameters without those of the logits\n  {train}"


def evaluation(metrics: Mapping[str, Any], directory: Path) -> str:
    """Returns the table of classes and the figures of a whole split."""
    rows = {
        f"{metrics['split']} accuracy": with_interval(metrics),
        "macro F1": number(metrics["macro_f1"]),
        "ROC AUC (macro)": number(metrics["roc_auc_macro"]),
        "log loss": number(metrics["log_loss"]),
        "calibration error": percent(metrics["ece"]),
        "written to": directory,
    }
    return f"{per_class(metrics)}\n\n{pairs(rows)}"


def training_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of training steps: pictures/s of each contestant, the ratios, the distance to the hardware."""
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
        f"  {hardware}; medians of {first['repeats']} turns; pictures/s\n"
        f"  peak: part of the rate of matrix products here, GFLOP/s: "
        + ", ".join(f"{peak} in {precision}" for precision, peak in peaks.items())
    )


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * row['peak_fraction']:.0f}%"


def data_benchmark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of decoding and augmentation."""
    header = ("step", "px", "batch", "device", "torchvision/s", "kcv/s", "kcv:torchvision")
    body = [
        (
            row["step"],
            str(row["image_size"]),
            str(row["batch_size"]),
            row["device"],
            *(f"{row['images_per_second'][name]:,.0f}" for name in ("torchvision", "kcv")),
            f"{row['kcv_over_torchvision']:.2f}x",
        )
        for row in rows
    ]
    first = rows[0]
    note = f"  {first['hardware']}, {first['threads']} threads; medians of {first['repeats']} turns; pictures/s"
    return f"{table(body, header=header)}\n\n{note}"


def row_line(row: Mapping[str, Any]) -> str:
    """Returns a prediction as one line."""
    if row["error"]:
        return f"{row['path']}  {paint('error: ' + str(row['error']), 'red')}"
    line = f"{row['path']}  {paint(str(row['label']), 'bold')}  {percent(row['confidence'])}"
    names, probabilities = _ranked(row)
    others = zip(names[1:], probabilities[1:], strict=True)
    return line + "".join(f"  {name} {percent(p)}" for name, p in others)


def ranking(row: Mapping[str, Any]) -> str:
    """Returns the classes that a prediction ranks, with a bar each."""
    names, probabilities = _ranked(row)
    width = max(map(len, names))
    return "\n".join(
        f"  {name.ljust(width)}  {percent(p):>7}  {paint('#' * round(30 * p), 'green')}".rstrip()
        for name, p in zip(names, probabilities, strict=True)
    )


def _ranked(row: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Returns the classes that a row ranks, the likeliest first."""
    names, probabilities = [str(row["label"])], [float(row["confidence"])]
    rank = 2
    while row.get(f"label_{rank}"):
        names.append(str(row[f"label_{rank}"]))
        probabilities.append(float(row[f"confidence_{rank}"]))
        rank += 1
    return names, probabilities
