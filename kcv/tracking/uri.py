"""Uris of MLflow stores: which there are, and a configuration without what is secret in them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from kcv.common.redaction import data_without_credentials, hide_credentials, without_credentials
from kcv.config import Config
from kcv.errors import TrackingError

__all__ = [
    "config_without_credentials", "hide_credentials", "is_file", "is_server", "require_known", "without_credentials",
]  # fmt: skip

_SERVERS = ("http", "https")
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", *_SERVERS, "databricks", "uc")


def require_known(uri: str) -> None:
    """Checks that a uri is of a kind that MLflow keeps runs in.

    Raises:
        TrackingError: it is not.
    """
    shown = without_credentials(uri)
    if uri != "databricks" and _scheme(uri) not in _SCHEMES:
        raise TrackingError(
            f"tracking.uri: received {shown!r}, allowed: sqlite:///FILE, another database's uri, "
            "http(s)://HOST:PORT of an MLflow server, or none."
        )
    if is_server(uri) and not _has_host(uri):
        raise TrackingError(f"tracking.uri: received {shown!r}, which names no host.")


def is_file(uri: str) -> bool:
    """Tells whether a database in a file is behind a uri."""
    return _scheme(uri) == "sqlite"


def is_server(uri: str) -> bool:
    """Tells whether MLflow's own server is behind a uri."""
    return _scheme(uri) in _SERVERS


def stays_inside(uri: str, folder: Path) -> bool:
    """Tells whether a store keeps everything in a plain file below a folder, or keeps nothing.

    Not so where the way there has hidden folders or links, or the uri has options, which may lead elsewhere.
    """
    if uri.lower() == "none":
        return True
    match = re.fullmatch(r"sqlite:///([^?:]+)", uri)
    if match is None:
        return False
    root = folder.resolve()
    try:
        path = (root / match[1]).resolve().relative_to(root)
        return not any(part.startswith(".") for part in path.parts)
    except (OSError, ValueError, RuntimeError):  # it lies elsewhere, or the links go in a circle
        return False


def config_without_credentials(config: Config) -> Config:
    """Returns a configuration as it may be written down: no user, password or token in its store and its data."""
    source, uri = config.data.source, config.tracking.uri
    changed = {
        "data": config.data.model_copy(update={"source": data_without_credentials(source)}),
        "tracking": config.tracking.model_copy(update={"uri": None if uri is None else without_credentials(uri)}),
    }
    return config.model_copy(update=changed)


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0].lower() if ":" in uri else ""


def _has_host(uri: str) -> bool:
    try:
        return bool(urlsplit(uri).hostname)
    except ValueError:  # brackets that hold no address
        return False
