"""Walks through nested folders, visiting each folder once even if several links lead to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from kcv.common.untrusted import is_link

Inner: TypeAlias = Callable[[str], Sequence[tuple[str, bool]]]
"""Returns the names of the subfolders of a folder, in order, and whether each is a link."""


def each_once(
    start: str,
    inner: Inner,
    *,
    join: Callable[[str, str], str] = os.path.join,
    real: Callable[[str], str] = os.path.realpath,
) -> Iterator[str]:
    """Yields a folder and all folders below it, parents first.

    A link to a folder that contains the first one is not followed, because it could lead through the whole disk.

    Args:
        start: the first folder.
        inner: called for a folder when the next one is requested.
        join: joins the path of a folder and a name in it.
        real: resolves the links in the path of a folder. It is called only for the first folder and for links, because
            its time grows with the depth.
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
            if not (link and contains(target, root)):
                pending.append((path, target))


def contains(outer: str, inner: str) -> bool:
    """Returns whether `outer` is `inner` or a folder above it; both are paths without links."""
    return inner == outer or inner.startswith(os.path.join(outer, ""))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder or a link to one; False for a broken link."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_linked(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a link or a Windows junction; needs an additional system call only on Windows."""
    return entry.is_symlink() or (os.name == "nt" and is_link(Path(entry.path)))
