"""Limits the layers and objects in a model's `config.json` before Keras creates any object from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kcv.errors import ArtifactError

MOST_LAYERS = 5_000
"""NASNet, the largest network of keras.applications, has 1,000 layers."""
_MOST_OBJECTS = 100_000
_MOST_ATTEMPTS = 100_000
"""The most layer calls that Keras may try in vain. It walks through the layers in order, repeatedly if needed."""

_TENSOR = "__keras_tensor__"


def check_structure(config: Any, origin: str) -> None:
    """Checks that Keras can build the graph in a time proportionate to its size.

    Args:
        config: the parsed JSON.
        origin: the file's name, for the message.

    Raises:
        ArtifactError: there are too many layers or objects, or the layers are not in order of computation.
    """
    layers = objects = 0
    for node in nodes(config):
        objects += "class_name" in node
        if isinstance(found := node.get("layers"), list):
            layers += len(found)
            if layers > MOST_LAYERS:
                raise ArtifactError(f"{origin}: has more than {MOST_LAYERS:,} layers")
            calls, later = _calls(found)
            if calls > _MOST_OBJECTS or calls * later > _MOST_ATTEMPTS:
                raise ArtifactError(f"{origin}: its layers do not stand in the order in which they are computed")
    if objects > _MOST_OBJECTS:
        raise ArtifactError(f"{origin}: is made of more than {_MOST_OBJECTS:,} objects")


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Yields all objects in a JSON value, at any depth."""
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _calls(layers: list[Any]) -> tuple[int, int]:
    """Returns the number of layer calls, and the number of those that depend on a later layer."""
    places = {}
    for place, layer in enumerate(layers):
        if isinstance(layer, dict) and isinstance(name := layer.get("name"), str):
            places[name] = place
    calls = later = 0
    for place, layer in enumerate(layers):
        inbound = layer.get("inbound_nodes") if isinstance(layer, dict) else None
        for call in inbound if isinstance(inbound, list) else ():
            calls += 1
            later += any(places.get(name, -1) > place for name in _needed(call))
    return calls, later


def _needed(call: Any) -> Iterator[str]:
    """Yields the names of the layers whose outputs are inputs of a call."""
    for node in nodes(call):
        history = node["config"].get("keras_history") if isinstance(node.get("config"), dict) else None
        if node.get("class_name") == _TENSOR and isinstance(history, list) and history and isinstance(history[0], str):
            yield history[0]
