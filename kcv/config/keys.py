"""The keys of a configuration, derived from its schema: names, descriptions, allowed values and suggestions."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kcv.errors import LONGEST_MEANT


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: the dotted name, such as `optim.lr`.
        short: its short flag, or the dotted name if it has none.
        description: its description in the schema.
        default: its default value.
        choices: the allowed values, as far as they can be listed; otherwise empty.
        allowed: the allowed values in words.
        textual: whether its values are text, so that a typed value is never parsed as a number.
        optional: whether it may be null.
        listed: whether its values are lists, so that a typed value in brackets is parsed as YAML.
    """

    name: str
    short: str
    description: str
    default: Any
    choices: tuple[str, ...]
    allowed: str
    textual: bool
    optional: bool
    listed: bool


@dataclass(frozen=True)
class Specification:
    """All keys of a pydantic model by dotted name, its sections, and its short flags."""

    keys: Mapping[str, Key]
    sections: Mapping[str, tuple[str, ...]]
    shorts: Mapping[str, str]

    def resolve(self, typed: str) -> str | None:
        """Returns the dotted key for a typed name (`lr`, `optim.lr` or `optim__lr`), or None."""
        dotted = typed.replace("__", ".").replace("-", "_")
        if dotted in self.shorts:
            return self.shorts[dotted]
        return dotted if dotted in self.keys else None

    def suggest(self, typed: str) -> str | None:
        """Returns the most similar existing name, or None. The last part of a name is compared first."""
        typed = typed.replace("__", ".").replace("-", "_")
        leaf = typed.rsplit(".", 1)[-1]
        leaves = {key.rsplit(".", 1)[-1]: key for key in self.keys if not key.endswith((".name", ".uri"))}
        meant = {name: key for name, key in _SYNONYMS.items() if key in self.keys} | leaves
        if leaf in meant:
            return meant[leaf]
        name = closest(typed, [*self.keys, *self.shorts, *meant]) or closest(leaf, meant)
        return name if name in self.keys or name in self.shorts else meant.get(name or "")


_SYNONYMS = {
    "learning_rate": "optim.lr",
    "dataset": "data.source",
    "bs": "data.batch_size",
    "arch": "model.name",
    "model_name": "model.name",
    "num_epochs": "train.epochs",
    "wd": "optim.weight_decay",
    "num_workers": "data.workers",
    "early_stopping": "train.patience",
    "amp": "precision",
    "smoothing": "optim.label_smoothing",
    "scheduler": "optim.schedule",
    "mlflow_uri": "tracking.uri",
    "img_size": "data.image_size",
    "class_weight": "data.class_weights",
    "sampler": "data.sampling",
}
"""Names that other programs use for these keys."""


def closest(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Returns the allowed name most similar to `name`, or None if no similarity reaches `cutoff` (0-1)."""
    if len(name) > LONGEST_MEANT:
        return None
    return next(iter(difflib.get_close_matches(name, list(allowed), n=1, cutoff=cutoff)), None)


@cache
def _specify(model: type[BaseModel], shorts: tuple[tuple[str, str], ...]) -> Specification:
    by_key = {key: short for short, key in shorts}
    keys: dict[str, Key] = {}
    sections: dict[str, tuple[str, ...]] = {}
    for name, field in model.model_fields.items():
        section = _section_of(field)
        if section is None:
            keys[name] = _key(name, name, field)
            continue
        sections[name] = tuple(section.model_fields)
        for leaf, inner in section.model_fields.items():
            dotted = f"{name}.{leaf}"
            keys[dotted] = _key(dotted, by_key.get(dotted, dotted), inner)
    return Specification(keys, sections, dict(shorts))


def specify(model: type[BaseModel], shorts: Mapping[str, str]) -> Specification:
    """Returns the keys of a pydantic model whose fields are values or sections (one level deep)."""
    return _specify(model, tuple(shorts.items()))


def none_as_null(section: type[BaseModel], values: Any) -> Any:
    """Returns `values` with the text `none` replaced by None, for keys that accept null and no text."""
    if not isinstance(values, Mapping):
        return values
    return {
        name: None
        if name in section.model_fields
        and value in ("none", "None")
        and _parts(section.model_fields[name])[1]
        and not _is_textual(section.model_fields[name])
        else value
        for name, value in values.items()
    }


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _parts(field: FieldInfo) -> tuple[tuple[Any, ...], bool]:
    """Returns the types of a field except None, and whether None is one of them."""
    annotation = field.annotation
    union = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    kinds = tuple(get_args(kind)[0] if get_origin(kind) is not Literal and get_args(kind) else kind for kind in union)
    return tuple(kind for kind in kinds if kind is not type(None)), type(None) in union


def _is_textual(field: FieldInfo) -> bool:
    return any(kind in (str, Path) or get_origin(kind) is Literal for kind in _parts(field)[0])


def _key(name: str, short: str, field: FieldInfo) -> Key:
    kinds, optional = _parts(field)
    extra: Mapping[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    literals = (value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))
    choices = tuple(extra.get("choices", literals))
    allowed = str(extra["allowed"]) if "allowed" in extra else _allowed(kinds, choices, field)
    return Key(
        name,
        short,
        field.description or "",
        field.get_default(call_default_factory=True),
        choices,
        f"{allowed}, or null" if optional else allowed,
        _is_textual(field),
        optional,
        get_origin(field.annotation) is list,
    )


def _allowed(kinds: tuple[Any, ...], choices: tuple[str, ...], field: FieldInfo) -> str:
    if choices:
        return ", ".join(repr(choice) for choice in choices)
    noun = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(kinds[0], "text")
    limits: dict[type, Any] = {}
    for rule in field.metadata:
        for kind in (at.Gt, at.Ge, at.Lt, at.Le):
            if isinstance(rule, kind):
                limits[kind] = getattr(rule, kind.__name__.lower())
        if isinstance(rule, at.MinLen):
            noun = "text that is not empty"
    if set(limits) == {at.Ge, at.Le}:
        return f"{noun} from {limits[at.Ge]} to {limits[at.Le]}"
    words = {at.Gt: "greater than", at.Ge: "at least", at.Lt: "less than", at.Le: "at most"}
    return f"{noun} {' and '.join(f'{words[kind]} {limit}' for kind, limit in limits.items())}".rstrip()
