"""Where labelled images come from: each file in this folder registers one source, and nothing else names it.

A source has a name of its own (`NamedSource`), or stands for a kind of path (`PathSource`). The files import nothing
heavy before they open something, so that a configuration and help can name them.
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
    """A data set that a name stands for.

    Attributes:
        name: as in `data.source`.
        description: in a few words.
        open: returns its images.
        default: whether it is the source of a configuration that names none.
    """

    name: str
    description: str
    open: Callable[[], Source]
    default: bool = False


@dataclass(frozen=True)
class PathSource:
    """A kind of files or folders that images are read from.

    Attributes:
        description: what such a path is, for messages: "a folder of images".
        recognises: whether an existing path is of this kind.
        open: takes the path, and what the source is called.
        open_url: takes a URL, where files of this kind are read from other machines.
        last: whether it is asked after all others, because it recognises what they do, too.
    """

    description: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, str], Source]
    open_url: Callable[[str], Source] | None = None
    last: bool = False


_NAMED: dict[str, NamedSource] = {}
_PATHS: list[PathSource] = []


def register(source: NamedSource | PathSource) -> None:
    """Makes a source known.

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
    """Returns the sources that have a name of their own, by name."""
    _discover()
    return tuple(sorted(_NAMED.values(), key=lambda source: source.name))


def names() -> tuple[str, ...]:
    """Returns the names of all named sources; any other name of a source is a path or a URL."""
    return tuple(source.name for source in named())


def default() -> str:
    """Returns the name of the source of a configuration that names none."""
    return next(source.name for source in named() if source.default)


def described(path: str = "the path of images") -> str:
    """Returns what a source may be, for help: the names, and what else.

    Args:
        path: what is said of sources without a name.
    """
    return ", ".join((*names(), f"or {path}"))


def find(name: str) -> NamedSource | None:
    """Returns the source of a name, or None where it is a path or a URL."""
    _discover()
    return _NAMED.get(name)


def paths() -> tuple[PathSource, ...]:
    """Returns the kinds of paths, in the order in which they are asked whether they recognise one."""
    _discover()
    return tuple(sorted(_PATHS, key=lambda source: (source.last, source.description)))
