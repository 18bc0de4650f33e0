"""Checksums and signatures, which show that a record is unchanged and that this user wrote it.

A checksum detects damage, but anyone can compute it. A signature uses a key that is stored only in the user's cache
folder, so a record that another user wrote or changed has no valid signature.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kcv.common.download import cache_dir
from kcv.common.files import BINARY
from kcv.common.untrusted import read_bytes
from kcv.errors import KcvError, OutputError

_KEY_BYTES: Final = 32
_OWNER_ALONE: Final = 0o600


def checksum(values: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of plain values, independent of the order of their keys."""
    return hashlib.sha256(_canonical(values)).hexdigest()


def signature(values: Mapping[str, Any]) -> str | None:
    """Returns this user's signature of the values; None if no key can be stored."""
    key = _key() or _new_key()
    return None if key is None else _signed(values, key)


def is_own(values: Mapping[str, Any], signed: str | None) -> bool:
    """Returns whether this user signed these values on this machine."""
    key = None if signed is None else _key()
    if key is None or signed is None:
        return False
    return hmac.compare_digest(
        _signed(values, key).encode(), signed.lower().encode()
    )  # of texts, only ASCII is accepted


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _signed(values: Mapping[str, Any], key: bytes) -> str:
    return hmac.new(key, _canonical(values), hashlib.sha256).hexdigest()


def _place() -> Path:
    # Several users may share a cache folder, but must not use each other's key.
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return cache_dir() / f"runs{user}.key"


def _key() -> bytes | None:
    """Returns the user's key; None if there is none, or if the file belongs to another user."""
    place = _place()
    try:
        if hasattr(os, "getuid") and os.stat(place).st_uid != os.getuid():
            return None
        key = read_bytes(place, _KEY_BYTES, OutputError)
    except (OSError, KcvError, ValueError):
        return None
    return key if len(key) == _KEY_BYTES else None


def _new_key() -> bytes | None:
    """Creates the user's key atomically; returns None if the cache folder is not writable."""
    place = _place()
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, _OWNER_ALONE)
        try:
            os.write(handle, secrets.token_bytes(_KEY_BYTES))
        finally:
            os.close(handle)
        os.replace(temporary, place)
    except (OSError, ValueError):
        return None
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
    return _key()  # the stored key, in case another process created one too
