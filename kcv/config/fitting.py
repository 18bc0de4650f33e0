"""Fits the values of a file to what was typed beside it, where one key makes sense only with another.

A short run of a file's configuration (`--epochs=1`) should need no further flags, and a key should replace its
alternative. What is typed is never changed, and two typed values that exclude each other stay an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from kcv.config.policies import without_policy

_ALTERNATIVES = (
    ("optim", "warmup_epochs", "warmup_fraction"),
    ("optim", "warmup_fraction", "warmup_epochs"),
    ("train", "minutes", "epochs"),
    ("train", "epochs", "minutes"),
    ("train", "monitor", "keep"),
    ("train", "patience", "keep"),
)
"""Section, a key, and the key that it replaces."""


def fit_file(values: dict[Any, Any], typed: Mapping[str, Any], augment: Mapping[str, Any]) -> dict[Any, Any]:
    """Returns the values of a file, ready for what was typed to be put on top.

    Args:
        values: nested sections; they may have the wrong type.
        typed: typed values by dotted key.
        augment: the defaults of the section `augment`.
    """
    values = {name: dict(inner) if isinstance(inner, Mapping) else inner for name, inner in values.items()}
    for section, key, replaced in _ALTERNATIVES:
        if typed.get(f"{section}.{key}") is not None and isinstance(values.get(section), dict):
            values[section].pop(replaced, None)
    if "augment.policy" in typed and isinstance(values.get("augment"), dict):
        values["augment"] = without_policy(values["augment"], augment)
    _fit_stages(values, typed)
    return values


def _fit_stages(values: Mapping[Any, Any], typed: Mapping[str, Any]) -> None:
    """Lets a run of two stages end within the first one, where it is typed to be that short."""
    model, epochs = values.get("model"), _count(typed.get("train.epochs"))
    if not isinstance(model, dict) or _STAGES & typed.keys():
        return
    if 1 <= epochs <= _count(model.get("unfreeze_after")):
        model.pop("unfreeze_after")
        model["mode"] = "feature_extraction"


_STAGES: Set[str] = {"model.unfreeze_after", "model.mode"}


def _count(value: Any) -> int:
    """Returns a whole number; 0 for anything else, which validation reports."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
