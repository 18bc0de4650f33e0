"""The model card of a run, in Markdown (after Mitchell et al., Model Cards for Model Reporting, FAT* 2019).

The template `templates/MODEL_CARD.md.jinja` holds the text. Whatever it inserts is escaped for Markdown.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from kcv.common.hub_reference import HubReference
from kcv.common.text import printable
from kcv.reporting.markdown import literal
from kcv.reporting.material import Material

if TYPE_CHECKING:
    from jinja2 import Template

_MOST_CLASSES = 200
_MORE_FIGURES: Final = (
    ("balanced accuracy", "balanced_accuracy", ".2%"),
    ("macro F1", "macro_f1", ".4f"),
    ("expected calibration error", "ece", ".2%"),
)
"""Figures beside the accuracy, where a model file has them."""


class _Code(str):
    """Text of a code block, where nothing is markup and a backslash would be shown."""


def card(material: Material, *, repository: HubReference | None = None) -> str:
    """Returns the whole card. Sections that only people can fill in are left open and marked as such.

    Args:
        material: the run.
        repository: the repository whose README the card is to be; None for a card beside the file.
    """
    named = repository.text if repository is not None else material.model.name
    info, metrics = material.info, material.metrics
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    return _template().render(
        name=material.name,
        info=info,
        file=material.model.name,
        built_by=f"{source.name}, SHA-256 {source.sha256}" if (source := info.model_source) else None,
        classes=", ".join(info.class_names[:_MOST_CLASSES]) + _more(len(info.class_names)),
        weights=material.weights,
        made=f"{info.created:%Y-%m-%d}, {versions}",
        results=_results(metrics) if metrics else None,
        rows=_rows(metrics["per_class"]) if metrics else [],
        more=_more(len(metrics["per_class"])) if metrics else "",
        command=_Code(f"python -m kcv predict IMAGE --model={shlex.quote(printable(named))}"),
        keras=_Code(f'keras.saving.load_model(snapshot_download("{repository.repository}"))')
        if repository is not None
        else None,
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("kcv.reporting"),
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("MODEL_CARD.md.jinja")


def _results(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["accuracy_ci95"]
    known = ((name, metrics.get(key), form) for name, key, form in _MORE_FIGURES)
    more = "".join(f", {name} {value:{form}}" for name, value, form in known if value is not None)
    return (
        f"On {metrics['n']:,} {metrics['split']} images: accuracy {metrics['accuracy']:.2%} "
        f"(95% interval {low:.2%} to {high:.2%}){more}."
    )


def _rows(per_class: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for name, scores in islice(per_class.items(), _MOST_CLASSES):
        cells = ["–" if scores[key] is None else f"{scores[key]:.4f}" for key in ("precision", "recall", "f1")]
        rows.append([name, *cells, f"{scores['support']:,}"])
    return rows


def _more(classes: int) -> str:
    return f" ... and {classes - _MOST_CLASSES:,} more" if classes > _MOST_CLASSES else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, _Code) else literal(value)
