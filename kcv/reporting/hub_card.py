"""The README of a repository in the Hugging Face Hub: the model card, with the header that the hub reads.

Source: Hugging Face Hub documentation, "Model Cards", metadata; `model-index` is that of Papers with Code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from kcv.common.hub_reference import HubReference
from kcv.common.redaction import hide_credentials
from kcv.reporting.card import card
from kcv.reporting.material import Material

TASK: Final = "image-classification"

_HEADER = re.compile(r"---[ \t]*\r?\n")
_DATA = re.compile(r"hf:(?://datasets/)?([\w.-]+/[\w.-]+)")
_METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("balanced_accuracy", "balanced_accuracy", "Balanced accuracy"),
    ("f1", "macro_f1", "Macro F1"),
)
"""Metrics as the hub calls them, as kcv does, and for people. The first and the last are among the hub's own."""
_SPLITS = {"val": "validation"}


def hub_card(material: Material, repository: HubReference, *, onnx: bool, text: str | None = None) -> str:
    """Returns the README.

    Args:
        material: the run, without places on this machine (`kcv.exporting.published`).
        repository: the repository.
        onnx: whether it holds an ONNX file too.
        text: a card that a person has written, in Markdown, in place of the generated one; if it begins with a header,
            that one is kept.

    Example:
        >>> hub_card(gather(model, evaluation), HubReference("anna", "photos"), onnx=True).splitlines()[:2]
        ['---', 'library_name: keras']
    """
    if text is not None and _HEADER.match(text):
        return text
    header = yaml.safe_dump(_header(material, repository, onnx=onnx), allow_unicode=True, sort_keys=False)
    body = text if text is not None else hide_credentials(card(material, repository=repository))
    return f"---\n{header}---\n\n{body}"


def without_weights_place(material: Material, place: str) -> Material:
    """Returns a run whose starting weights are told as `place`."""
    if material.environment is None or not material.environment.weights:
        return material
    told = material.environment.model_copy(update={"weights": place})
    return dataclasses.replace(material, environment=told)


def _header(material: Material, repository: HubReference, *, onnx: bool) -> dict[str, Any]:
    data = _DATA.match(str(material.info.data_options.get("source", "")))
    header: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": TASK,
        "tags": ["kcv", TASK, "keras", *(["onnx"] if onnx else [])],
    }
    if data is not None:
        header["datasets"] = [data[1]]
    if material.metrics is not None:
        header["metrics"] = ["accuracy", "f1"]
        header["model-index"] = [_index(material, material.metrics, repository, data[1] if data else None)]
    return header


def _index(
    material: Material, metrics: Mapping[str, Any], repository: HubReference, data: str | None
) -> dict[str, Any]:
    """Returns what the hub shows as results."""
    name = material.info.data_name
    measured = [
        {"type": kind, "value": round(float(metrics[key]), 4), "name": title}
        for kind, key, title in _METRICS
        if metrics.get(key) is not None
    ]
    split = str(metrics["split"])
    dataset = {"name": name, "type": data or re.sub(r"\W+", "-", name).strip("-").lower() or "images"}
    return {
        "name": repository.name,
        "results": [
            {
                "task": {"type": TASK, "name": "Image classification"},
                "dataset": {**dataset, "split": _SPLITS.get(split, split)},
                "metrics": measured,
            }
        ],
    }
