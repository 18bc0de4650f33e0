"""The sources of labelled images: each file in this folder registers one source, and no other code refers to it.

A source either has a name (`NamedSource`) or is a kind of path (`PathSource`). The files import nothing heavy until
they open something, so that the configuration and the help can list the sources.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kcv.data.dataset import Source


@dataclass(frozen=True)
class NamedSource:
    """A data set with a name.

    Attributes:
        name: the name in `data.source`.
        description: a few words for help.
        open: opens the source.
        default: whether it is used if a configuration names no source.
    """

    name: str
    description: str
    open: Callable[[], Source]
    default: bool = False


@dataclass(frozen=True)
class PathSource:
    """A kind of files or folders that images are read from.

    Attributes:
        description: what such a path is, for messages, such as "a folder of images".
        recognises: returns whether an existing path is of this kind.
        open: opens a path; takes the path and the name of the source.
        open_url: opens a URL, if files of this kind can be read from other machines.
        last: whether it is tried after all others, because it also recognises their paths.
    """

    description: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, str], Source]
    open_url: Callable[[str], Source] | None = None
    last: bool = False


_NAMED: dict[str, NamedSource] = {}
_PATHS: list[PathSource] = []


def register(source: NamedSource | PathSource) -> None:
    """Registers a source.

    Example:
        register(NamedSource("mnist", "handwritten digits, 28x28", open_source))

    Raises:
        ValueError: another source has that name.
    """
    if isinstance(source, PathSource):
        _PATHS.append(source)
    elif source.name in _NAMED:
        raise ValueError(f"there are two sources of the name {source.name}")
    else:
        _NAMED[source.name] = source


@functools.cache
def _discover() -> None:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)


def named() -> tuple[NamedSource, ...]:
    """Returns the named sources, sorted by name."""
    _discover()
    return tuple(sorted(_NAMED.values(), key=lambda source: source.name))


def names() -> tuple[str, ...]:
    """Returns the names of all named sources; any other name of a source is a path or a URL."""
    return tuple(source.name for source in named())


def default() -> str:
    """Returns the name of the source that is used if a configuration names none."""
    return next(source.name for source in named() if source.default)


def described(path: str = "the path of images") -> str:
    """Returns a description of all possible sources, for help: the names, then `path`.

    Args:
        path: the description of sources without a name.
    """
    return ", ".join((*names(), f"or {path}"))


def find(name: str) -> NamedSource | None:
    """Returns the source with a name, or None if the name is a path or a URL."""
    _discover()
    return _NAMED.get(name)


def paths() -> tuple[PathSource, ...]:
    """Returns the kinds of paths, in the order in which they are tried."""
    _discover()
    return tuple(sorted(_PATHS, key=lambda source: (source.last, source.description)))
