"""What shows that a record of ours is as it was written, and that this user wrote it.

A checksum finds damage, and anybody can compute it. A signature is made with a key that lies in the user's cache folder
and nowhere else: what a stranger wrote, or changed, does not have it.
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
from kcv.common.untrusted import read_bytes
from kcv.errors import KcvError, OutputError

_KEY_BYTES: Final = 32
_OWNER_ALONE: Final = 0o600


def checksum(values: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of plain values, whatever the order of their keys."""
    return hashlib.sha256(_canonical(values)).hexdigest()


def signature(values: Mapping[str, Any]) -> str | None:
    """Returns what shows later that this user wrote these values; None where no key can be kept."""
    key = _key() or _new_key()
    return None if key is None else _signed(values, key)


def is_own(values: Mapping[str, Any], signed: str | None) -> bool:
    """Tells whether this user signed these values, on this machine."""
    key = None if signed is None else _key()
    if key is None or signed is None:
        return False
    return hmac.compare_digest(_signed(values, key).encode(), signed.lower().encode())  # of texts, it takes ASCII alone


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _signed(values: Mapping[str, Any], key: bytes) -> str:
    return hmac.new(key, _canonical(values), hashlib.sha256).hexdigest()


def _place() -> Path:
    # Several users may share a cache folder, and none is to have the key of another.
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return cache_dir() / f"runs{user}.key"


def _key() -> bytes | None:
    """Returns the user's key; None where there is none, or what is there is not the user's own."""
    place = _place()
    try:
        if hasattr(os, "getuid") and os.stat(place).st_uid != os.getuid():
            return None
        key = read_bytes(place, _KEY_BYTES, OutputError)
    except (OSError, KcvError, ValueError):
        return None
    return key if len(key) == _KEY_BYTES else None


def _new_key() -> bytes | None:
    """Makes the user's key, whole or not at all; None where the cache folder cannot be written to."""
    place = _place()
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ALONE)
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
    return _key()  # that of another process, where both made one
