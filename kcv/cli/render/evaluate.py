"""The metrics of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.cli import terminal
from kcv.cli.console import number, pairs, percent, table
from kcv.cli.parsing import Call
from kcv.cli.render.figures import with_interval

if TYPE_CHECKING:
    from kcv.tasks.evaluate import Evaluation


def show(result: Evaluation, call: Call) -> int:
    """Shows the metrics of a split."""
    if call.as_json:
        more = {"explanations": result.explanations} if result.explanations else {}
        terminal.json_of({**result.metrics, **more, "directory": str(result.directory)})
        return 0
    if result.explanations:
        terminal.show(explanations(result.explanations) + "\n")
    terminal.show(evaluation(result.metrics, result.directory))
    return 0


def per_class(metrics: Mapping[str, Any]) -> str:
    """Returns the table of precision, recall, F1 and support."""
    rows = [
        (name, *(number(scores[column]) for column in ("precision", "recall", "f1")), str(scores["support"]))
        for name, scores in metrics["per_class"].items()
    ]
    return table(rows, header=("class", "precision", "recall", "f1", "support"))


def evaluation(metrics: Mapping[str, Any], directory: Path) -> str:
    """Returns the table of classes and the metrics of the whole split."""
    rows: dict[str, Any] = {
        f"{metrics['split']} accuracy": with_interval(metrics),
        "balanced accuracy": percent(metrics["balanced_accuracy"]),
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
    if "prediction_sets" in metrics:
        rows[f"sets for {100 * metrics['prediction_sets']['wanted_coverage']:g}%"] = _sets(metrics["prediction_sets"])
    if "tta" in metrics:
        rows[f"--tta={metrics['tta']['name']}"] = _tta(metrics["tta"])
    rows["written to"] = directory
    return f"{per_class(metrics)}\n\n{pairs(rows)}"


def explanations(found: Mapping[str, Any]) -> str:
    """Returns the table of the faithfulness of heat maps."""
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


def _sets(found: Mapping[str, Any]) -> str:
    """Returns coverage and size of prediction sets."""
    low, high = found["coverage_ci95"]
    return (
        f"{percent(found['coverage'])} hold the right class (95% interval {percent(low)} to {percent(high)}); "
        f"{found['mean_size']:.2f} classes on average, {percent(found['single'])} have one; lowest coverage: "
        f"{found['lowest_class']}, {percent(found['lowest_class_coverage'])}"
    )


def _tta(found: Mapping[str, Any]) -> str:
    """Returns what test-time augmentation brings and costs."""
    low, high = found["difference_ci95_points"]
    beyond = "" if found["differ"] else ", which may be chance"
    return (
        f"{found['difference_points']:+.2f} points (95% interval {low:+.2f} to {high:+.2f}, p = "
        f"{found['p_value']:.3g}{beyond}) against {percent(found['plain_accuracy'])} without; "
        f"{found['images_per_second']:,.0f} images/s, without {found['plain_images_per_second']:,.0f}"
    )


def _answers(abstention: Mapping[str, Any]) -> str:
    """Returns coverage and precision of a model that abstains below its threshold."""
    low, high = abstention["precision_ci95"]
    covered = f"{percent(abstention['coverage'])} of the images, at confidence {abstention['threshold']:.4f} and above"
    if abstention["precision"] is None:
        return covered
    return (
        f"{covered}; {percent(abstention['precision'])} of them right (95% interval {percent(low)} to {percent(high)})"
    )
