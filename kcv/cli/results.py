"""What verbs answer, as text for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.cli.console import number, paint, pairs, percent, program, table
from kcv.common.text import plain

if TYPE_CHECKING:
    from kcv.artifact import ArtifactInfo
    from kcv.inference.onnx_model import OnnxInfo
    from kcv.models.network import Network
    from kcv.tasks.export import Export
    from kcv.tasks.report import Report
    from kcv.training.run_folder import Run


def with_interval(metrics: Mapping[str, Any]) -> str:
    """Returns the accuracy with its 95% interval and the number of images."""
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
        "report": run.directory / "report.html",
        "tracking": run.tracking or "off",
    }
    model = shlex.quote(str(run.model_path))
    commands = [
        f"{program()} info {model}",
        f"{program()} evaluate {model}",
        f"{program()} predict IMAGE --model={model}",
    ]
    if run.tracking and run.tracking.startswith("sqlite"):
        commands.append(f"{program('mlflow')} ui --backend-store-uri {shlex.quote(run.tracking)}")
    return "\n".join(["", pairs(rows), "", "Next:", *(f"  {command}" for command in commands)])


def model_card(content: ArtifactInfo, path: Path) -> str:
    """Returns what a model file says of itself."""
    rows: dict[str, Any] = {
        "model": f"{content.model_name}, {_parameters(content)}, trained in {content.precision}",
        "classes": _classes(content.class_names),
        "input": f"{content.image_size}x{content.image_size} RGB, other sizes: {content.resize}",
        "data": f"{content.data_name} (fingerprint {content.data_fingerprint[:12]})",
        "best epoch": content.best_epoch if content.best_epoch is not None else "-",
    }
    if content.calibration:
        rows["calibration"] = content.calibration.describe()
    if content.metrics:
        rows[f"{content.metrics['split']} accuracy"] = with_interval(content.metrics)
    rows["made"] = f"{content.created:%Y-%m-%d %H:%M} UTC with " + ", ".join(
        f"{name} {version}" for name, version in content.versions.items()
    )
    rows["file"] = f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    return pairs(rows)


def onnx_card(content: OnnxInfo, path: Path) -> str:
    """Returns what an ONNX file says of itself."""
    return pairs(
        {
            "model": f"{content.model_name}, ONNX, {content.precision}",
            "classes": _classes(content.class_names),
            "input": f"{content.image_size}x{content.image_size} RGB, other sizes: {content.resize}",
            "data": f"{content.data_name} (fingerprint {content.data_fingerprint[:12]})",
            "confidence": f"temperature {content.temperature:.3f}"
            + (f", unsure below {content.threshold:.4f}" if content.threshold is not None else ""),
            "made": f"with kcv {content.kcv_version}",
            "file": f"{path}, {path.stat().st_size / 1e6:.1f} MB",
        }
    )


def report(made: Report) -> str:
    """Returns where a report lies."""
    return pairs({"page": made.page, "model card": made.card})


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20]) + (f" ... and {len(names) - 20} more" if len(names) > 20 else "")
    return f"{len(names)}: {shown}"


def export(made: Export) -> str:
    """Returns what an export came to: how the file compares with the model, and whether int8 was worth it."""
    parity, trade = made.parity, made.trade
    rows: dict[str, Any] = {
        "file": f"{made.path}, {made.bytes / 1e6:.1f} MB, {made.precision}, opset {made.opset}",
        "checked with": made.samples,
        "logits": f"differ by up to {parity.max_difference:.1e} from Keras (allowed {parity.tolerance:.1e})",
        "same class": percent(parity.agreement),
    }
    if parity.keras_accuracy is not None:
        rows["accuracy"] = f"Keras {percent(parity.keras_accuracy)}, ONNX {percent(parity.onnx_accuracy)}"
    if trade is not None:
        gains = ", ".join(f"{gain:.2f}x at batch {size}" for size, gain in trade.gains.items())
        sizes = " to ".join(f"{trade.bytes[name] / 1e6:.1f}" for name in ("float32", "int8"))
        rows["int8 speed"] = f"{gains}, on this machine"
        rows["int8 accuracy"] = f"{percent(trade.int8_accuracy)} for {percent(trade.float32_accuracy)} in float32"
        rows["int8 size"] = f"{sizes} MB"
    if made.refusal is not None:
        rows["int8 refused"] = paint(f"{made.refusal}; the file is float32 (--force keeps int8)", "bold")
    command = f"{program()} predict IMAGE --model={shlex.quote(str(made.path))}"
    return "\n".join([pairs(rows), "", "Next:", f"  {command}"])


def _parameters(content: ArtifactInfo) -> str:
    total, trained = content.parameters["total"], content.parameters.get("trainable")
    return f"{total:,} parameters" + (f" ({trained:,} of them learned)" if trained not in (None, total) else "")


def model_list(networks: Sequence[Network]) -> str:
    """Returns the table of networks."""
    header = ("model", "parameters", "smallest px", "ImageNet px", "ImageNet weights", "for")
    rows = [
        (
            network.name,
            f"{network.parameters / 1e6:.1f}M",
            str(network.min_image_size),
            str(network.image_size or "-"),
            network.weights_here,
            network.best_for,
        )
        for network in networks
    ]
    train = f"{program()} train --model=NAME --data=path/to/images"
    return f"{table(rows, header=header, words=(0, 4, 5))}\n\n  parameters without those of the logits\n  {train}"


def evaluation(metrics: Mapping[str, Any], directory: Path) -> str:
    """Returns the table of classes and the figures of a whole split."""
    rows: dict[str, Any] = {
        f"{metrics['split']} accuracy": with_interval(metrics),
        "macro F1": f"{number(metrics['macro_f1'])} (95% interval {_ends(metrics['macro_f1_ci95'])})",
        **{f"top-{k} accuracy": percent(value) for k, value in metrics["top_k_accuracy"].items()},
        "ROC AUC (macro)": number(metrics["roc_auc_macro"]),
        "average precision": number(metrics["average_precision_macro"]),
        "log loss": number(metrics["log_loss"]),
        "Brier score": number(metrics["brier"]),
        "calibration error": percent(metrics["ece"]),
    }
    if pairs_ := metrics["confused_pairs"][:3]:
        rows["most confused"] = ", ".join(f"{pair['true']} as {pair['predicted']} ({pair['count']})" for pair in pairs_)
    if "abstention" in metrics:
        rows["answers"] = _answers(metrics["abstention"])
    rows["written to"] = directory
    return f"{per_class(metrics)}\n\n{pairs(rows)}"


def explanations(found: Mapping[str, Any]) -> str:
    """Returns the table of how far heat maps can be trusted."""
    rows = [
        (
            name,
            *(f"{row[f'{kind}_auc']:.4f} ± {row[f'{kind}_sem']:.4f}" for kind in ("deletion", "insertion")),
            number(row.get("rank_correlation")),
            percent(row["flat"]),
        )
        for name, row in found["methods"].items()
    ]
    header = ("heat maps", "deletion (low)", "insertion (high)", "like random weights (low)", "flat")
    return f"{table(rows, header=header)}\n\n  areas under the curves of {found['pictures']} images, ± standard error"


def _ends(interval: Sequence[float]) -> str:
    return " to ".join(number(end) for end in interval)


def _answers(abstention: Mapping[str, Any]) -> str:
    """Returns what a model comes to that says unsure below its threshold."""
    low, high = abstention["precision_ci95"]
    told = f"{percent(abstention['coverage'])} of the images, at confidence {abstention['threshold']:.4f} and above"
    if abstention["precision"] is None:
        return told
    return f"{told}; {percent(abstention['precision'])} of them right (95% interval {percent(low)} to {percent(high)})"


def row_line(row: Mapping[str, Any]) -> str:
    """Returns a prediction as one line."""
    if row["error"]:
        return _failed(row)
    path = plain(row["path"])
    line = f"{path}  {paint(str(row['label']), 'bold')}  {percent(row['confidence'])}"
    names, probabilities = _ranked(row)
    if row["label"] != names[0]:  # unsure
        line = f"{path}  {paint(str(row['label']), 'bold')}  {names[0]} {percent(row['confidence'])}"
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


def explanation(row: Mapping[str, Any]) -> str:
    """Returns an explanation as one line: the explained class and the files, of which the folder is named once."""
    if row["error"]:
        return _failed(row)
    beside, heatmap = (Path(row[key]).name for key in ("side_by_side", "heatmap"))
    line = f"{plain(row['path'])}  {paint(str(row['label']), 'bold')}  {percent(row['probability'])}"
    line += plain(f"  {row['overlay']}, {beside}, {heatmap}")
    return line + (f"  {paint('warning: ' + str(row['warning']), 'red')}" if row["warning"] else "")


def grid_line(overlay: str) -> str:
    """Returns where the grid of all images is, which lies beside each one's overlay."""
    return f"side by side: {Path(overlay).with_name('grid.png')}"


def _failed(row: Mapping[str, Any]) -> str:
    return f"{plain(row['path'])}  {paint('error: ' + plain(row['error']), 'red')}"


def _ranked(row: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Returns the classes that a row ranks, the likeliest first."""
    names, probabilities = [str(row.get("likeliest") or row["label"])], [float(row["confidence"])]
    rank = 2
    while row.get(f"label_{rank}"):
        names.append(str(row[f"label_{rank}"]))
        probabilities.append(float(row[f"confidence_{rank}"]))
        rank += 1
    return names, probabilities
