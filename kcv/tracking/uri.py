"""Uris of MLflow stores: which there are, and how they look without what is secret in them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from kcv.config import Config
from kcv.errors import TrackingError

_SERVERS = ("http", "https")
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", *_SERVERS, "databricks", "uc")
_SECRET_KEYS = r"[^=&#\s]*(?:pass|pwd|token|secret|credential|odbc_connect)[^=&#\s]*"


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


def without_credentials(uri: str) -> str:
    """Returns a uri without user, password and secret options; everything else, and an SQLite file's uri, as it was."""
    if _scheme(uri) == "sqlite":  # its path may hold an @
        return uri
    uri = re.sub(r"//[^/?#]*@", "//", uri, count=1)
    if not is_server(uri):  # a database's password may hold a slash
        uri = re.sub(r"//[^:/]*:[^@]*@", "//", uri, count=1)
    return _without_options(uri)


def config_without_credentials(config: Config) -> Config:
    """Returns a configuration as it may be written down."""
    if config.tracking.uri is None:
        return config
    uri = without_credentials(config.tracking.uri)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})


def hide_credentials(text: str) -> str:
    """Returns a text, such as a message or a command, with the uris in it without their user, password and options."""
    return _without_options(re.sub(r"//[^/?#\s]*@", "//", text))


def _without_options(text: str) -> str:
    before = ""
    while text != before:  # two options in a row share the & between them
        before = text
        text = re.sub(rf"(?i)([?&]){_SECRET_KEYS}=[^&#\s'\"]*(&?)", lambda found: found[1] if found[2] else "", text)
    return text


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0].lower() if ":" in uri else ""


def _has_host(uri: str) -> bool:
    try:
        return bool(urlsplit(uri).hostname)
    except ValueError:  # brackets that hold no address
        return False
