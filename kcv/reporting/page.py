"""The report of a run as one self-contained HTML file without scripts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from kcv import __version__
from kcv.reporting.html import image, section, table, terms, text
from kcv.reporting.material import Material
from kcv.reporting.style import CSS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MOST_CLASSES = 200


def page(material: Material) -> str:
    """Returns the whole page."""
    parts = [
        _head(material),
        _figures(material),
        section("What was trained", terms(_training(material))),
        _curves(material),
        _results(material),
        _classes(material),
        _calibration(material),
        _mistakes(material),
        _explanations(material),
        _environment(material),
        _reproduce(material),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{text(material.name)}</title>\n<style>{CSS}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n"
        f"<footer>Made by kcv {text(__version__)} from {text(material.model.name)}.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _head(material: Material) -> str:
    info = material.info
    classes = f"{len(info.class_names)} classes"
    what = f"{info.model_name} on {info.data_name}, {classes}, made {info.created:%Y-%m-%d %H:%M} UTC"
    return f"<header><h1>{text(material.name)}</h1><p>{text(what)}</p></header>"


def _figures(material: Material) -> str:
    metrics = material.metrics
    if not metrics:
        return ""
    low, high = metrics["accuracy_ci95"]
    cards = [
        (f"{metrics['split']} accuracy", _percent(metrics["accuracy"]), f"{_percent(low)} to {_percent(high)}, 95%")
    ]
    if metrics.get("balanced_accuracy") is not None:
        cards.append(("balanced accuracy", _percent(metrics["balanced_accuracy"]), "mean recall of the classes"))
    if metrics.get("macro_f1") is not None:
        ends = metrics.get("macro_f1_ci95")
        cards.append(("macro F1", f"{metrics['macro_f1']:.4f}", f"{ends[0]:.4f} to {ends[1]:.4f}, 95%" if ends else ""))
    if metrics.get("ece") is not None:
        cards.append(("calibration error", _percent(metrics["ece"]), "expected, 15 bins"))
    cards.append(("parameters", _count(material.info.parameters["total"]), _trained(material)))
    if material.minutes is not None:
        cards.append(("training", _duration(material.minutes), f"{len(material.history)} epochs"))
    shown = "".join(
        f'<div class="figure"><span>{text(name)}</span><b>{text(value)}</b><span>{text(below)}</span></div>'
        for name, value, below in cards
    )
    return f'<div class="figures">{shown}</div>'


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
        "best epoch": f"{info.best_epoch} of {len(material.history)}" if material.history else info.best_epoch,
        "model file": f"{material.model.name}, {material.bytes / 1e6:.1f} MB",
    }


def _curves(material: Material) -> str:
    return section("Learning curves", image(material.plots.get("learning_curves"), "loss and accuracy by epoch"))


def _results(material: Material) -> str:
    metrics = material.metrics
    if not metrics:
        return ""
    low, high = metrics["accuracy_ci95"]
    values: dict[str, Any] = {
        f"{metrics['split']} images": f"{metrics['n']:,}",
        "accuracy": f"{_percent(metrics['accuracy'])} (95% interval {_percent(low)} to {_percent(high)})",
    }
    for k, value in metrics.get("top_k_accuracy", {}).items():
        values[f"top-{k} accuracy"] = None if value is None else _percent(value)
    for key, name in (("roc_auc_macro", "ROC AUC, macro"), ("average_precision_macro", "average precision, macro"),
                      ("log_loss", "log loss, nats"), ("brier", "Brier score")):  # fmt: skip
        values[name] = None if metrics.get(key) is None else f"{metrics[key]:.4f}"
    if answers := metrics.get("abstention"):
        values["answers"] = _answers(answers)
    plots = [
        image(material.plots.get("confusion_matrix_normalized"), "confusion matrix, in percent of the true class"),
        image(material.plots.get("roc"), "ROC curves, one class against the rest"),
    ]
    pairs = [(row["true"], row["predicted"], f"{row['count']:,}", _percent(row["share"]))
             for row in metrics.get("confused_pairs", [])]  # fmt: skip
    confused = table(("true class", "taken for", "images", "of the class"), pairs, words=True)
    return section(
        "Results",
        terms(values),
        f'<div class="plots">{"".join(plots)}</div>' if any(plots) else "",
        f"<h3>Most confused</h3>{confused}" if confused else "",
    )


def _classes(material: Material) -> str:
    if not material.metrics:
        return ""
    per_class = material.metrics["per_class"]
    known = ("precision", "recall", "f1", "roc_auc", "average_precision")
    keys = [key for key in known if any(key in scores for scores in per_class.values())]
    names = {"f1": "F1", "roc_auc": "ROC AUC", "average_precision": "avg. precision"}
    rows = [(name, *(scores.get(key) for key in keys), f"{scores['support']:,}") for name, scores in per_class.items()]
    note = ""
    if len(rows) > _MOST_CLASSES:
        rows = sorted(rows, key=lambda row: (row[3] is None, row[3] or 0.0))[:_MOST_CLASSES]
        note = f'<p class="note">The {_MOST_CLASSES} classes of the lowest F1, of {len(per_class):,}.</p>'
    header = ("class", *(names.get(key, key) for key in keys), "images")
    return section("Per class", table(header, rows, bars=range(1, len(keys) + 1)), note)


def _calibration(material: Material) -> str:
    fitted = material.info.calibration
    words = f'<p class="note">Fitted on validation: {text(fitted.describe())}.</p>' if fitted else ""
    plot = image(material.plots.get("reliability"), "accuracy against confidence, and how often each confidence occurs")
    return section("Calibration", f'<div class="plots">{plot}</div>' if plot else "", words if plot else "")


def _mistakes(material: Material) -> str:
    rows = [
        (row.picture, row.true, row.predicted, _percent(row.confidence), "yes" if row.suspected_label_error else "")
        for row in material.mistakes[:20]
    ]  # fmt: skip
    shown = table(("image", "true class", "predicted", "confidence", "label in doubt"), rows, words=True)
    return section(
        "Most confident mistakes",
        image(
            material.plots.get("mistakes"),
            "the most confident mistakes, with heat maps",
            "Each image, and beside it where the model saw the class it named (Grad-CAM).",
        ),
        f"<details><summary>The first {len(rows)} as a table</summary>{shown}</details>" if rows else "",
    )


def _explanations(material: Material) -> str:
    found = material.explanations
    if found is None:
        return ""
    rows = [
        (name, row.deletion_auc, row.insertion_auc, row.rank_correlation, row.flat)
        for name, row in found.methods.items()
    ]
    header = (
        "heat maps",
        "deletion (low is good)",
        "insertion (high is good)",
        "like random weights",
        "share that is flat",
    )
    note = (
        f"Measured on {found.pictures} images: the probability of the class while the pixels that a map points"
        " at are taken away first, or put in first; and how alike maps of random weights are (near 0 is good)."
    )
    shown = table(header, rows)
    return section("How far heat maps can be trusted", shown, f'<p class="note">{text(note)}</p>' if shown else "")


def _environment(material: Material) -> str:
    environment = material.environment
    if environment is None:
        return section("Environment", terms(material.info.versions))
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    shown = {
        "device": f"{environment.device} ({environment.device_name})",
        "threads": environment.threads,
        "platform": environment.platform,
        "python": environment.python,
        "packages": packages,
        "git commit": environment.git_commit,
        "seed": environment.seed,
    }
    return section("Environment", terms(shown))


def _reproduce(material: Material) -> str:
    if material.config is None:
        return ""
    again = f"python -m kcv train {shlex.quote(str(material.folder / 'config.yaml'))} --output_dir=runs/again"
    first = material.environment.command if material.environment else None
    return section(
        "Reproduce",
        f"<pre>{text(again)}</pre>",
        f'<p class="note">The run was started with: {text(first)}</p>' if first else "",
        f"<details><summary>config.yaml</summary><pre>{text(material.config)}</pre></details>",
    )


def _answers(answers: Mapping[str, Any]) -> str:
    told = f"{_percent(answers['coverage'])} of the images, at confidence {answers['threshold']:.4f} and above"
    right = answers["precision"]
    return told if right is None else f"{told}; {_percent(right)} of them right"


def _source(material: Material) -> str | None:
    source = material.info.model_source
    return f"{source.name}, SHA-256 {source.sha256[:16]}" if source else None


def _trained(material: Material) -> str:
    trained = material.info.parameters.get("trainable")
    return f"{_count(trained)} trained" if trained is not None else ""


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _count(value: int) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e5 else f"{value:,}"


def _duration(minutes: float) -> str:
    return (
        f"{60 * minutes:.0f} s" if minutes < 1.5 else f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
    )
