"""Registries that fill themselves: each module of a package registers what it adds when it is imported."""

from __future__ import annotations

import functools
import importlib
import pkgutil


@functools.cache
def import_modules(package: str) -> None:
    """Imports all modules of a package, once.

    Args:
        package: its full name.
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
