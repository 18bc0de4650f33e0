"""The report of a run as one self-contained HTML file without scripts.

The template `templates/report.html.jinja` holds the markup; this module computes what it shows. Everything that comes
from a file or a user is escaped by the template engine.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kcv import __version__
from kcv.reporting.material import Material
from kcv.reporting.plots.evaluation import Section, evaluation_plots

if TYPE_CHECKING:
    from jinja2 import Template

_MOST_CLASSES = 200
_MOST_MISTAKES = 20


def page(material: Material) -> str:
    """Returns the whole page."""
    info, environment = material.info, material.environment
    return template("report.html.jinja").render(
        title=material.name,
        subtitle=f"{info.model_name} on {info.data_name}, {len(info.class_names)} classes, "
        f"made {info.created:%Y-%m-%d %H:%M} UTC",
        figures=_figures(material),
        training=_training(material),
        **_measured(material.metrics),
        calibration=info.calibration.describe() if info.calibration else None,
        mistakes=_mistakes(material),
        explanations=material.explanations,
        heat_maps=_heat_maps(material),
        environment=_environment(material),
        config=material.config,
        again=f"python -m kcv train {shlex.quote(str(material.folder / 'config.yaml'))} --output_dir=runs/again",
        command=environment.command if environment else None,
        plots=material.plots,
        sections=_sections(material),
        model=material.model.name,
        version=__version__,
    )


@functools.cache
def template(name: str) -> Template:
    """Returns a template of one of kcv's pages by its name; whatever it inserts is escaped for HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("kcv.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template(name)


def _sections(material: Material) -> dict[Section, list[tuple[str, str]]]:
    """Returns the plots that there are, each with its name and what it shows, by section."""
    sections: dict[Section, list[tuple[str, str]]] = {"training": [], "results": [], "calibration": []}
    for plot in evaluation_plots():
        if plot.section and plot.name in material.plots:
            sections[plot.section].append((plot.name, plot.alt))
    return sections


def _figures(material: Material) -> list[tuple[str, str, str]]:
    """Returns the main figures, each with its name and a remark."""
    metrics = material.metrics
    if not metrics:
        return []
    low, high = metrics["accuracy_ci95"]
    cards = [(f"{metrics['split']} accuracy", percent(metrics["accuracy"]), f"{percent(low)} to {percent(high)}, 95%")]
    if metrics.get("balanced_accuracy") is not None:
        cards.append(("balanced accuracy", percent(metrics["balanced_accuracy"]), "mean recall of the classes"))
    if metrics.get("macro_f1") is not None:
        ends = metrics.get("macro_f1_ci95")
        cards.append(("macro F1", f"{metrics['macro_f1']:.4f}", f"{ends[0]:.4f} to {ends[1]:.4f}, 95%" if ends else ""))
    if metrics.get("ece") is not None:
        cards.append(("calibration error", percent(metrics["ece"]), "expected, 15 bins"))
    trained = material.info.parameters.get("trainable")
    shown = f"{_count(trained)} trained" if trained is not None else ""
    cards.append(("parameters", _count(material.info.parameters["total"]), shown))
    if material.minutes is not None:
        cards.append(("training", _duration(material.minutes), f"{len(material.history)} epochs"))
    return cards


def _training(material: Material) -> dict[str, Any]:
    info, environment = material.info, material.environment
    return {
        "model": info.model_name + (f" ({info.variant})" if info.variant else ""),
        "built by": _source(material),
        "starting weights": material.weights,
        "data": info.data_name,
        "data fingerprint": info.data_fingerprint[:16],
        "classes": ", ".join(info.class_names[:30]) + (" ..." if len(info.class_names) > 30 else ""),
        "input": f"{info.image_size}x{info.image_size} RGB; other sizes: {info.resize}",
        "precision": info.precision,
        "started": environment.started if environment else None,
        "epoch kept": f"{info.best_epoch} of {len(material.history)}" if material.history else info.best_epoch,
        "model file": f"{material.model.name}, {material.bytes / 1e6:.1f} MB",
    }


def _measured(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    if metrics is None:
        return {"results": {}, "confused": [], "classes": None}
    return {"results": _results(metrics), "confused": _confused(metrics), "classes": _classes(metrics["per_class"])}


def _results(metrics: Mapping[str, Any]) -> dict[str, str | None]:
    low, high = metrics["accuracy_ci95"]
    values: dict[str, str | None] = {
        f"{metrics['split']} images": f"{metrics['n']:,}",
        "accuracy": f"{percent(metrics['accuracy'])} (95% interval {percent(low)} to {percent(high)})",
    }
    for k, value in metrics.get("top_k_accuracy", {}).items():
        values[f"top-{k} accuracy"] = None if value is None else percent(value)
    for key, name in (("roc_auc_macro", "ROC AUC, macro"), ("average_precision_macro", "average precision, macro"),
                      ("log_loss", "log loss, nats"), ("brier", "Brier score")):  # fmt: skip
        values[name] = None if metrics.get(key) is None else f"{metrics[key]:.4f}"
    if answers := metrics.get("abstention"):
        values["answers"] = _answers(answers)
    if tta := metrics.get("tta"):
        low, high = tta["difference_ci95_points"]
        values[f"gain of {tta['name']}"] = (
            f"{tta['difference_points']:+.2f} points (95% interval {low:+.2f} to {high:+.2f}, p = {tta['p_value']:.3g})"
        )
    if sets := metrics.get("prediction_sets"):
        values[f"sets for {100 * sets['wanted_coverage']:g}%"] = _sets(sets)
    return values


def _confused(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = metrics.get("confused_pairs", [])
    return [(row["true"], row["predicted"], f"{row['count']:,}", percent(row["share"])) for row in rows]


def _classes(per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the table of the classes: its header, rows and a note; of many classes, those of the lowest F1."""
    known = ("precision", "recall", "f1", "roc_auc", "average_precision")
    keys = [key for key in known if any(key in scores for scores in per_class.values())]
    names = {"f1": "F1", "roc_auc": "ROC AUC", "average_precision": "avg. precision"}
    rows = [(name, *(scores.get(key) for key in keys), f"{scores['support']:,}") for name, scores in per_class.items()]
    note = None
    if len(rows) > _MOST_CLASSES:
        rows = sorted(rows, key=lambda row: (row[3] is None, row[3] or 0.0))[:_MOST_CLASSES]
        note = f"The {_MOST_CLASSES} classes of the lowest F1, of {len(per_class):,}."
    return {"header": ("class", *(names.get(key, key) for key in keys), "images"), "rows": rows, "note": note}


def _mistakes(material: Material) -> list[tuple[str, ...]]:
    return [
        (row.picture, row.true, row.predicted, percent(row.confidence), "yes" if row.suspected_label_error else "")
        for row in material.mistakes[:_MOST_MISTAKES]
    ]


def _heat_maps(material: Material) -> list[tuple[Any, ...]]:
    methods = material.explanations.methods if material.explanations else {}
    return [
        (name, row.deletion_auc, row.insertion_auc, row.rank_correlation, row.flat) for name, row in methods.items()
    ]


def _environment(material: Material) -> Mapping[str, Any]:
    environment = material.environment
    if environment is None:
        return material.info.versions
    return {
        "device": f"{environment.device} ({environment.device_name})",
        "threads": environment.threads,
        "platform": environment.platform,
        "python": environment.python,
        "packages": ", ".join(f"{name} {version}" for name, version in environment.packages.items()),
        "git commit": environment.git_commit,
        "seed": environment.seed,
    }


def _answers(answers: Mapping[str, Any]) -> str:
    told = f"{percent(answers['coverage'])} of the images, at confidence {answers['threshold']:.4f} and above"
    right = answers["precision"]
    return told if right is None else f"{told}; {percent(right)} of them right"


def _sets(sets: Mapping[str, Any]) -> str:
    low, high = sets["coverage_ci95"]
    return (
        f"{percent(sets['coverage'])} hold the right class (95% interval {percent(low)} to {percent(high)}), "
        f"{sets['mean_size']:.2f} classes on average; lowest for {sets['lowest_class']}: "
        f"{percent(sets['lowest_class_coverage'])}"
    )


def _source(material: Material) -> str | None:
    source = material.info.model_source
    return f"{source.name}, SHA-256 {source.sha256[:16]}" if source else None


def percent(value: float) -> str:
    """Formats 0.98765 as `98.77%`."""
    return f"{100 * value:.2f}%"


def _count(value: int) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e5 else f"{value:,}"


def _duration(minutes: float) -> str:
    return (
        f"{60 * minutes:.0f} s" if minutes < 1.5 else f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
    )
