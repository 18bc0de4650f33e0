"""Merges the values of a file with overrides, and describes every problem found.

Works with any pydantic model of nested sections; does not depend on the meaning of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import ValidationError

from kcv.config.keys import Key, Specification
from kcv.config.scalars import parse_scalar
from kcv.errors import nearest

Fit: TypeAlias = Callable[[dict[Any, Any], Mapping[str, Any]], dict[Any, Any]]


def flatten(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the values of nested sections by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{leaf}": inner for leaf, inner in value.items()})
        else:
            flat[str(name)] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values by dotted key in their sections: the opposite of `flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, leaf = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = value
    return nested


def merge(
    spec: Specification,
    values: Mapping[Any, Any],
    overrides: Mapping[str, Any],
    fit: Fit = lambda values, typed: values,
) -> tuple[dict[Any, Any], list[str], set[str]]:
    """Applies overrides to the values of a file.

    Args:
        spec: the keys.
        values: nested values of the file.
        overrides: values as typed, by any name of their key.
        fit: changes the file's values to suit the overrides, which it gets by dotted key, before those are applied.

    Returns:
        The merged nested values, one line per override that matches no key or repeats one, and the overridden keys.
    """
    merged: dict[Any, Any] = {}
    for name, value in values.items():
        if name in spec.sections and value is None:
            value = {}  # a section in which all keys are commented out
        elif name == "tracking" and value == "none":
            value = {"uri": "none"}
        merged[name] = dict(value) if isinstance(value, Mapping) else value
    problems: list[str] = []
    taken: dict[str, str] = {}
    parsed: dict[str, Any] = {}
    for typed, value in _spread(spec, overrides):
        key = spec.resolve(typed)
        if key is None:
            problems.append(_unknown(spec, typed) if len(problems) <= MOST_PROBLEMS else typed)
            continue
        if key in taken:
            problems.append(f"{key}: given twice, as {taken[key]!r} and as {typed!r}; give it once.")
            continue
        taken[key] = typed
        parsed[key] = _parse(spec.keys[key], value)
    merged = fit(merged, parsed)
    for key, value in parsed.items():
        section, _, leaf = key.rpartition(".")
        place = merged.setdefault(section, {}) if section else merged
        if isinstance(place, dict):  # otherwise validation reports the mistake in the file
            place[leaf] = value
    return merged, problems, set(taken)


MOST_PROBLEMS = 50
"""The most problems reported for one configuration; a longer list helps no one."""


def told(problems: Sequence[str]) -> list[str]:
    """Returns the first problems without duplicates, followed by the number of those left out."""
    lines = list(dict.fromkeys(problems))
    more = len(lines) - MOST_PROBLEMS
    return lines if more <= 0 else [*lines[:MOST_PROBLEMS], f"and {more:,} more problems."]


def explain(spec: Specification, error: ValidationError) -> list[str]:
    """Returns one line per problem: key, received value, allowed values, and the most similar valid name."""
    lines: list[str] = []
    for number, detail in enumerate(error.errors(include_url=False)):
        if number > MOST_PROBLEMS:  # only counted: searching for similar names is slow
            lines.append(f"problem {number + 1}")
            continue
        where = ".".join(str(part) for part in detail["loc"] if part != "[key]")
        kind, received = detail["type"], detail["input"]
        if kind == "value_error" and where not in spec.keys:
            lines += str(detail["ctx"]["error"]).splitlines()
        elif kind in ("extra_forbidden", "invalid_key"):
            lines.append(_unknown(spec, where))
        elif where in spec.sections:
            names = ", ".join(spec.sections[where])
            lines.append(f"{where}: received {show(received)}, allowed: a section with the keys {names}.")
        elif where in spec.keys:
            key = spec.keys[where]
            hint = nearest(str(received), key.choices) if key.choices else ""
            lines.append(f"{where}: received {show(received)}, allowed: {key.allowed}.{hint}")
        else:
            lines.append(f"{where}: received {show(received)}: {detail['msg']}.")
    return lines


def show(value: Any) -> str:
    """Returns the representation of a value, cut to a readable length."""
    try:
        text = "null" if value is None else repr(value)
    except ValueError:  # Python refuses to print an integer of thousands of digits
        text = "a number of very many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _spread(spec: Specification, overrides: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the overrides with whole sections (`train={"epochs": 1}`) split into single keys."""
    pairs: list[tuple[str, Any]] = []
    for typed, value in overrides.items():
        if typed in spec.sections and isinstance(value, Mapping):
            pairs += [(f"{typed}.{leaf}", inner) for leaf, inner in value.items()]
        else:
            pairs.append((typed, value))
    return pairs


def _unknown(spec: Specification, typed: str) -> str:
    typed = typed.replace("__", ".")
    if typed in spec.sections:
        return f"{typed}: is a section; name one of its keys: {', '.join(spec.sections[typed])}."
    suggestion = spec.suggest(typed)
    typed = typed if len(typed) <= 80 else f"{typed[:77]}..."
    if suggestion is not None:
        return f"{typed}: unknown key. Did you mean {spec.shorts.get(suggestion, suggestion)!r}?"
    section = typed.partition(".")[0]
    names = spec.sections.get(section)
    top = [key for key in spec.keys if "." not in key]
    listed = f"{section} has {', '.join(names)}" if names else f"there are {', '.join((*top, *spec.sections))}"
    return f"{typed}: unknown key; {listed}."


def _parse(key: Key, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if key.textual:
        return None if key.optional and value == "null" else value
    if not key.listed:
        return parse_scalar(value)
    from kcv.config.yaml12 import parse_list

    return parse_list(value)
