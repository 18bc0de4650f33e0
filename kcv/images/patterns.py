"""Matches patterns with `*`, `?`, `[...]` and `**` like `glob`, but always terminates.

`glob.glob` follows every link below `**`: two links from a folder to itself give 2^40 paths. Here, `**` matches each
folder once, even if several paths lead to it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from typing import Literal, TypeAlias

from kcv.images.folders import each_once, is_folder, is_linked

Kind: TypeAlias = Literal["file", "folder", "link"]
"""The kind of an entry; a link is a link to a folder."""


def matches(pattern: str) -> list[str]:
    """Returns the matching files and folders, sorted; hidden ones match only a part that begins with a dot.

    Args:
        pattern: a pattern as for `glob.glob` with `recursive=True`.
    """
    drive, rest = os.path.splitdrive(pattern)
    root = drive + rest[: len(rest) - len(rest.lstrip(os.sep))]
    found: Iterable[str] = [root]
    parts = [part for part in rest.split(os.sep) if part]
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        found = dict.fromkeys(step for place in found for step in _step(place, part, files=last))
    if rest.endswith(os.sep):
        return sorted(os.path.join(place, "") for place in found if os.path.isdir(place))
    return sorted(found)


def _step(place: str, part: str, *, files: bool) -> Iterator[str]:
    """Yields the matches of one part of a pattern in a folder."""
    if part == "**":
        for folder in _folders(place):
            if folder or not files:
                yield folder
            if files:
                yield from (os.path.join(folder, name) for name, kind in _entries(folder) if kind == "file")
    elif glob.has_magic(part):
        fits = re.compile(translate(os.path.normcase(part))).match
        for name, kind in _entries(place, hidden=part.startswith(".")):
            if (files or kind != "file") and fits(os.path.normcase(name)):
                yield os.path.join(place, name)
    else:
        path = os.path.join(place, part)
        if os.path.lexists(path) if files else os.path.isdir(path):
            yield path


def _folders(place: str) -> Iterator[str]:
    """Yields a folder and all folders below it, each once."""
    return each_once(
        place,
        lambda here: [(name, kind == "link") for name, kind in _entries(here) if kind != "file"],
        real=lambda path: os.path.realpath(path or os.curdir),
    )


def _entries(place: str, *, hidden: bool = False) -> list[tuple[str, Kind]]:
    """Returns the sorted names and kinds of a folder's entries; an empty list if it cannot be read, like `glob`."""
    try:
        with os.scandir(place or os.curdir) as entries:
            return sorted((entry.name, _kind(entry)) for entry in entries if hidden == entry.name.startswith("."))
    except (OSError, ValueError):
        return []


def _kind(entry: os.DirEntry[str]) -> Kind:
    if not is_folder(entry):
        return "file"
    return "link" if is_linked(entry) else "folder"
