"""Versions of the packages that are installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from contextlib import suppress


def installed(names: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed; mlflow-skinny, for one, stands in for mlflow."""
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
