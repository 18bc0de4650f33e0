"""Model files with one thing changed: by members of the archive, which are bytes by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import h5py
from mutants import edited_hdf5

Members = dict[str, bytes]


def with_config(members: Members, edit: Callable[[dict[str, Any]], object]) -> Members:
    """Returns members with a changed `config.json`."""
    config = json.loads(members["config.json"])
    made = edit(config)
    return {**members, "config.json": json.dumps(made if isinstance(made, dict) else config).encode()}


def with_layer(members: Members, name: str, **options: Any) -> Members:
    """Returns members with other options of one layer."""

    def edit(config: dict[str, Any]) -> None:
        next(layer for layer in config["config"]["layers"] if layer["name"] == name)["config"].update(options)

    return with_config(members, edit)


def with_weights(members: Members, edit: Callable[[h5py.File], object]) -> Members:
    """Returns members with changed weights."""
    return {**members, "model.weights.h5": edited_hdf5(members["model.weights.h5"], edit)}


def described(members: Members, **changes: Any) -> Members:
    """Returns members with other values in the description."""
    return {**members, "kcv.json": json.dumps({**json.loads(members["kcv.json"]), **changes}).encode()}
