"""Folders in folders: what an entry of one is, and all of them below one, each once however many links lead to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from kcv.common.untrusted import is_link

Inner: TypeAlias = Callable[[str], Sequence[tuple[str, bool]]]
"""Gives the names of the folders in a folder, in their order, and whether each is a link."""


def each_once(
    start: str,
    inner: Inner,
    *,
    join: Callable[[str, str], str] = os.path.join,
    real: Callable[[str], str] = os.path.realpath,
) -> Iterator[str]:
    """Yields a folder and those below it, each before those in it.

    A link to a folder that holds the first one is not followed: it would lead through the whole disk, and back.

    Args:
        start: the first folder.
        inner: asked about a folder when the next one is wanted.
        join: makes a path of that of a folder and a name in it.
        real: gives the path of a folder without links. It is asked for the first and for links only: for all folders it
            would take time that grows with the depth.
    """
    seen: set[str] = set()
    root = real(start)
    pending = [(start, root)]
    while pending:
        here, place = pending.pop()
        if place in seen:
            continue
        seen.add(place)
        yield here
        for name, link in reversed(inner(here)):
            path = join(here, name)
            target = real(path) if link else os.path.join(place, name)
            if not (link and _holds(target, root)):
                pending.append((path, target))


def _holds(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(os.path.join(outer, ""))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_linked(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link, or a junction of Windows; where the system tells it with the name, none is asked."""
    return entry.is_symlink() or (os.name == "nt" and is_link(Path(entry.path)))
