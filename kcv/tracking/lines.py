"""The lines of a spool: an entry each, as JSON, written whole and read with care."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

Entry: TypeAlias = dict[str, Any]

LONGEST_LINE = 2**26
"""Bytes that are read as one; the line of a run, with all its parameters and tags, has less than a million."""


def write_line(handle: int, entry: Mapping[str, Any]) -> None:
    """Appends an entry to an open file.

    Raises:
        OSError: it cannot be written; then the file is as it was.
    """
    line = json.dumps(entry).encode() + b"\n"
    before = os.fstat(handle).st_size
    try:
        if os.write(handle, line) < len(line):
            raise OSError("the disk is full")
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, before)  # or the next entry would be glued to half a line
        raise


def parse_line(line: bytes) -> Entry:
    """Returns the entry of a line; an empty one where it is damaged."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def describes_run(entry: Entry) -> bool:
    """Tells whether an entry has what a run is made of."""
    match entry:
        case {
            "kind": "run", "experiment": str(), "name": str(), "time": int(), "params": dict() as params,
            "tags": dict() as tags, "run_id": None | str(), "continues": None | str(),
        }:  # fmt: skip
            return all(isinstance(text, str) for text in (*params.values(), *tags.values()))
    return False


def is_count(value: Any, most: int) -> bool:
    """Tells whether a value is a whole number from 0 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def is_time(value: Any) -> bool:
    """Tells whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
