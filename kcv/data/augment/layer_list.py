"""Builds the layers of another library that a configuration lists, and names everything that is wrong with them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kcv.errors import ConfigError, first_line, nearest

RANGE: Final = (0, 255)
"""The value range of all images."""

_UNSEEN: Final = ("self", "kwargs", "seed", "bounding_box_format", "segmentation_classes")
"""Arguments that a configuration cannot set: the run provides the seed, and there are no boxes or masks."""


@dataclass(frozen=True)
class Catalogue:
    """The layers of a library.

    Attributes:
        called: the name of the library in messages.
        layers: the module that has them.
        names: those that a configuration can use, in alphabetical order.
        refused: those that training cannot use, and why.
        seeded: whether a layer must be given a seed, so that it does not take one from a global generator.
    """

    called: str
    layers: Any
    names: Sequence[str]
    refused: Mapping[str, str]
    seeded: bool = False


def build_layers(catalogue: Catalogue, entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Builds the layers that a configuration lists.

    Args:
        catalogue: the layers of the library.
        entries: `augment.layers` of a validated configuration.

    Returns:
        One layer per entry, computing in float32, for values of 0 to 255.

    Raises:
        ConfigError: the library has no such name or argument, or rejects a value; the message lists all problems.
    """
    import keras

    problems: list[str] = []
    # Nested layers use the global dtype policy, which training in half precision sets.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        layers = [_build(catalogue, entry, f"augment.layers[{place}]", problems) for place, entry in enumerate(entries)]
    finally:
        keras.config.set_dtype_policy(policy)
    if problems:
        raise ConfigError(problems)
    return layers


def _build(catalogue: Catalogue, entry: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    name, names = entry["name"], catalogue.names
    if name in catalogue.refused:
        problems.append(f"{where}: {name} cannot be used: it {catalogue.refused[name]}; there are {', '.join(names)}.")
        return None
    if name not in names:
        hint = nearest(name, names) or f" There are {', '.join(names)}."
        problems.append(f"{where}: {catalogue.called} has no layer {name!r}.{hint}")
        return None
    kind = getattr(catalogue.layers, name)
    signature = inspect.signature(kind.__init__).parameters
    taken = {key: value for key, value in signature.items() if key not in _UNSEEN}
    found = len(problems)
    values = _arguments(catalogue, entry, taken, where, problems)
    if len(problems) > found:
        return None
    if catalogue.seeded and "seed" in signature:
        values["seed"] = 0
    try:
        return kind(**values)
    except (TypeError, ValueError, AttributeError) as error:
        problems.append(f"{where}: {name} does not take this: {first_line(error)}")
        return None


def _arguments(
    catalogue: Catalogue, entry: Mapping[str, Any], taken: Mapping[str, Any], where: str, problems: list[str]
) -> dict[str, Any]:
    """Returns the arguments of a layer; adds a problem for each one that it does not accept."""
    name = entry["name"]
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "name":
            continue
        if key not in taken:
            hint = nearest(key, taken)
            problems.append(f"{where}: {name} has no argument {key!r}.{hint or f' It has {_listed(taken)}.'}")
        elif key == "layer":
            values[key] = _build(catalogue, value, f"{where}.layer", problems)
        elif key == "layers":
            inner = enumerate(value)
            values[key] = [_build(catalogue, item, f"{where}.layers[{place}]", problems) for place, item in inner]
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    if "value_range" in taken:
        values["value_range"] = RANGE
    missing = [
        key for key, value in taken.items() if value.default is value.empty and key not in entry and key not in values
    ]
    if missing:
        problems.append(f"{where}: {name} needs {', '.join(missing)}.")
    return values


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"


def reason(error: Exception) -> str:
    """Returns the reason why a layer failed, without the lines that Keras and AutoGraph add around it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [
        line
        for line in lines
        if not line.startswith(("Exception encountered", "in user code", "File ", "Arguments", "•"))
    ]
    return told[0][:200] if told else type(error).__name__
