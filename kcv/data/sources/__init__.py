"""The sources of labelled images: each file in this folder registers one source, and no other code refers to it.

A source either has a name (`NamedSource`) or is a kind of path (`PathSource`). The files import nothing heavy until
they open something, so that the configuration and the help can list the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from kcv.common.discovery import import_modules
from kcv.common.text import shortened
from kcv.errors import DataError

if TYPE_CHECKING:
    from kcv.data.dataset import Source
    from kcv.data.objects.place import ObjectPlace


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
class SourceOptions:
    """What to read of a source that holds more than one thing; the keys of `data` with these names.

    Attributes:
        image_column: the column with the images, or with their paths.
        label_column: the column with the labels.
        config: the configuration of a repository, or the folder of one of several data sets.
        image_folder: the folder that the paths in a label file start from and stay in.
        firm: whether the user named them for this source. If not, they were named for other data, and are used as far
            as they fit.
    """

    image_column: str | None = None
    label_column: str | None = None
    config: str | None = None
    image_folder: str | None = None
    firm: bool = True

    def column(self, kind: Literal["image", "label"], names: Sequence[str], file: str) -> str | None:
        """Returns the named column of a file; None if none was named.

        Args:
            kind: of images or of labels.
            names: the columns of the file.
            file: its name, for messages.

        Raises:
            DataError: there is no such column, or there are several.
        """
        named = self.image_column if kind == "image" else self.label_column
        if named is None or (named not in names and not self.firm):
            return None
        if (count := sum(name == named for name in names)) != 1:
            shown = ", ".join(shortened(name, 100) for name in names[:12]) + (", ..." if len(names) > 12 else "")
            raise DataError(
                f"{file}: has {count or 'no'} column{'s' if count > 1 else ''} {shortened(named)!r} "
                f"(data.{kind}_column); its columns: {shown or 'none'}."
            )
        return named

    def require_taken(self, taken: Sequence[str], name: str, description: str) -> None:
        """Refuses options that a source does not have.

        Args:
            taken: the options that it has.
            name: the name of the source.
            description: what it is, such as "a folder of images".

        Raises:
            DataError: an option was named for this source that it does not have.
        """
        for option in ("image_column", "label_column", "config", "image_folder"):
            if self.firm and getattr(self, option) is not None and option not in taken:
                raise DataError(f"{name}: data.{option} has no meaning here: this is {description}.")


NO_OPTIONS: Final = SourceOptions()


@dataclass(frozen=True)
class PathSource:
    """A kind of files or folders that images are read from.

    Attributes:
        description: what such a path is, for messages, such as "a folder of images".
        recognises: returns whether an existing path is of this kind.
        open: opens a path; takes the path, the name of the source and its options.
        options: the names of the options that it has.
        recognises_url: returns whether a URL is one of files of this kind; exactly one kind does.
        open_url: opens a URL, if files of this kind can be read from other machines.
        recognises_objects: returns whether what a URL of an object store names is of this kind.
        open_objects: opens that.
        last: whether it is tried after all others, because it also recognises their paths.
    """

    description: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, str, SourceOptions], Source]
    options: tuple[str, ...] = ()
    recognises_url: Callable[[str], bool] = lambda url: False
    open_url: Callable[[str, SourceOptions], Source] | None = None
    recognises_objects: Callable[[ObjectPlace], bool] = lambda place: False
    open_objects: Callable[[ObjectPlace, SourceOptions], Source] | None = None
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


def named() -> tuple[NamedSource, ...]:
    """Returns the named sources, sorted by name."""
    import_modules(__name__)
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
    import_modules(__name__)
    return _NAMED.get(name)


def paths() -> tuple[PathSource, ...]:
    """Returns the kinds of paths, in the order in which they are tried."""
    import_modules(__name__)
    return tuple(sorted(_PATHS, key=lambda source: (source.last, source.description)))
