"""The model card of a run, in Markdown (after Mitchell et al., Model Cards for Model Reporting, FAT* 2019)."""

from __future__ import annotations

import shlex
from itertools import islice
from typing import Any

from kcv.common.text import printable
from kcv.reporting.markdown import literal
from kcv.reporting.material import Material

_MOST_CLASSES = 200


def card(material: Material) -> str:
    """Returns the whole card. Sections that only people can fill in are left open and marked as such."""
    info, metrics = material.info, material.metrics
    lines = [
        f"# {literal(material.name)}",
        "",
        f"{literal(info.model_name)}, an image classifier of {len(info.class_names)} classes, trained with kcv on "
        f"{literal(info.data_name)}.",
        "",
        "## Model",
        "",
        *_items(
            {
                "file": material.model.name,
                **({"built by": f"{source.name}, SHA-256 {source.sha256}"} if (source := info.model_source) else {}),
                "input": f"{info.image_size}x{info.image_size} RGB; other sizes: {info.resize}",
                "classes": ", ".join(info.class_names[:_MOST_CLASSES]) + _more(len(info.class_names)),
                "parameters": f"{info.parameters['total']:,}",
                "trained in": info.precision,
                "starting weights": material.weights,
                "made": f"{info.created:%Y-%m-%d}, " + ", ".join(f"{k} {v}" for k, v in info.versions.items()),
            }
        ),
        "",
        "## Training data",
        "",
        *_items({"source": info.data_name, "fingerprint (SHA-256)": info.data_fingerprint}),
    ]
    if metrics:
        lines += ["", "## Results", "", *_results(metrics)]
    if info.calibration:
        lines += ["", "## Confidence", "", f"Fitted on validation: {info.calibration.describe()}."]
    lines += [
        "",
        "## Intended use and limits",
        "",
        "To be written by those who know the images: what the model is for, what it must not be used for, whom the "
        "images show and whom they leave out. The figures above hold for images like those of the training data, "
        "and for no others.",
        "",
        "## Use",
        "",
        "```sh",
        f"python -m kcv predict IMAGE --model={shlex.quote(printable(material.model.name))}",
        "```",
        "",
    ]
    return "\n".join(lines)


def _results(metrics: dict[str, Any]) -> list[str]:
    low, high = metrics["accuracy_ci95"]
    lines = [
        f"On {metrics['n']:,} {literal(metrics['split'])} images: accuracy {metrics['accuracy']:.2%} "
        f"(95% interval {low:.2%} to {high:.2%})"
        + (f", balanced accuracy {metrics['balanced_accuracy']:.2%}" if "balanced_accuracy" in metrics else "")
        + (f", macro F1 {metrics['macro_f1']:.4f}" if metrics.get("macro_f1") is not None else "")
        + (f", expected calibration error {metrics['ece']:.2%}" if metrics.get("ece") is not None else "")
        + ".",
        "",
        "| class | precision | recall | F1 | images |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, scores in islice(metrics["per_class"].items(), _MOST_CLASSES):
        cells = ["–" if scores[key] is None else f"{scores[key]:.4f}" for key in ("precision", "recall", "f1")]
        lines.append(f"| {literal(name)} | {' | '.join(cells)} | {scores['support']:,} |")
    if more := _more(len(metrics["per_class"])):
        lines += ["", f"The table goes on{more}: `metrics.json` has all."]
    return lines


def _more(classes: int) -> str:
    return f" ... and {classes - _MOST_CLASSES:,} more" if classes > _MOST_CLASSES else ""


def _items(values: dict[str, Any]) -> list[str]:
    return [f"- {name}: {literal(value)}" for name, value in values.items()]
