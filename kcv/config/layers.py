"""Checks the augmentation layers of another library in a configuration, without importing that library.

The list has one entry per layer, in the order in which they run: `{name: RandAugment, magnitude: 0.3}`, or just
`RandAugment` without arguments. `kcv.data.augment.keras_cv` and `kcv.data.augment.keras_layers` know which layers exist
and which arguments they take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from kcv.config.overrides import show

MIXING: Final = ("CutMix", "MixUp", "FourierMix", "Mosaic")
"""Layers that combine several images and their labels."""

LIBRARIES: Final[Mapping[str, str]] = {"keras_cv": "keras-cv", "keras": "Keras"}
"""The other libraries by their value of `augment.library`, as they are called in messages."""

_EXAMPLES: Final[Mapping[str, str]] = {
    "keras_cv": "{name: RandAugment, magnitude: 0.3}",
    "keras": "{name: RandomRotation, factor: 0.05}",
}


def _shown(value: Any) -> str:
    return "None" if value is None else show(value)


def as_entries(value: Any) -> Any:
    """Returns a list of layers with each bare name turned into a mapping; returns any other value unchanged."""
    if not isinstance(value, list | tuple):
        return value
    return [_as_entry(entry) for entry in value]


def _as_entry(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if not isinstance(entry, Mapping):
        return entry
    nested = {"layer": _as_entry, "layers": as_entries}
    return {key: nested.get(key, _plain)(value) if isinstance(key, str) else value for key, value in entry.items()}


def _plain(value: Any) -> Any:
    """Returns a tuple as a list, because YAML has no tuples; returns any other value unchanged."""
    return list(value) if isinstance(value, tuple) else value


def layer_problems(flat: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Returns one line per problem in a configuration's augmentation by another library.

    Args:
        flat: values by dotted key; they may have the wrong type or be missing.
        defaults: defaults of the section `augment`, by key.
    """
    library, layers = flat.get("augment.library", defaults["library"]), as_entries(flat.get("augment.layers", []))
    if not isinstance(layers, list):
        return []  # the schema reports it
    if library not in LIBRARIES:
        if not layers or library != defaults["library"]:
            return []
        return [
            "augment.layers: are layers of keras-cv, and augment.library is 'kcv'; set augment.library to keras_cv or "
            "keras, or take them out."
        ]
    problems = []
    if not layers:
        one = f"at least one layer of {LIBRARIES[library]}, such as {_EXAMPLES[library]}"
        problems.append(f"augment.layers: received [], allowed: {one}.")
    own = {key: default for key, default in defaults.items() if key not in ("library", "layers")}
    if flat.get("augment.policy", own["policy"]) != own["policy"]:
        own = {"policy": own["policy"]}  # what follows from it need not be named, too
    for key, default in own.items():
        value = flat.get(f"augment.{key}", default)
        if value != default:
            problems.append(
                f"augment.{key}: received {_shown(value)}, allowed: {default!r}, because augment.library is {library}, "
                "which changes the images by augment.layers alone."
            )
    for place, entry in enumerate(layers):
        problems += _entry_problems(library, f"augment.layers[{place}]", entry)
    return problems


def _entry_problems(library: str, where: str, entry: Any) -> list[str]:
    if not isinstance(entry, Mapping):
        example = _EXAMPLES[library]
        return [f"{where}: received {_shown(entry)}, allowed: the name of a layer, or a mapping such as {example}."]
    name = entry.get("name")
    if not isinstance(name, str) or not name.isidentifier():
        named = f"the name of a layer of {LIBRARIES[library]}, such as RandAugment"
        return [f"{where}.name: received {_shown(name)}, allowed: {named}."]
    return [problem for key, value in entry.items() for problem in _argument_problems(library, where, name, key, value)]


def _argument_problems(library: str, where: str, layer: str, key: Any, value: Any) -> list[str]:
    if not isinstance(key, str) or not key.isidentifier():
        return [f"{where}: received the argument {_shown(key)}, allowed: names of arguments of {layer}."]
    received = f"{where}.{key}: received {_shown(value)}, allowed:"
    if key == "seed":
        return [f"{received} none, because the run's seed decides."]
    if key == "value_range":
        return [] if value == [0, 255] else [f"{received} [0, 255], what all images have."]
    if key == "layer":
        return _entry_problems(library, f"{where}.layer", value)
    if key == "layers":
        if not isinstance(value, list) or not value:
            return [f"{received} a list of layers."]
        return [
            problem
            for place, inner in enumerate(value)
            for problem in _entry_problems(library, f"{where}.layers[{place}]", inner)
        ]
    return [] if _is_argument(value) else [f"{received} a finite number, text, or a list of these."]


def _is_argument(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_argument(item) and not isinstance(item, list) for item in value)
    return value is None or isinstance(value, bool | str | int) or (isinstance(value, float) and math.isfinite(value))


def mixes(layers: Any) -> bool:
    """Returns whether any of the layers, or any layer nested in them, combines several images."""
    return any(
        isinstance(layer, Mapping)
        and (layer.get("name") in MIXING or mixes(layer.get("layers", [])) or mixes([layer.get("layer")]))
        for layer in (layers if isinstance(layers, list) else [])
    )
