"""Finds the image files of a path, a folder, a pattern or a list, without opening them.

Folders are visited once each, even if several links lead to one. Patterns with `*`, `?`, `[...]` and `**` match like
those of `glob`, but always terminate.
"""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from itertools import chain
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias

from kcv.common.files import expand_user
from kcv.common.text import shortened
from kcv.common.untrusted import is_link
from kcv.errors import DataError

SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""File name suffixes of each format, in lower case."""

EXTENSIONS: Final = frozenset(chain.from_iterable(SUFFIXES.values()))
"""Suffixes of the images that are found in a folder."""

_READ = 65536  # bytes of a list per read


def is_image_name(name: str) -> bool:
    """Returns whether a file of this name counts as an image: not hidden, and with a known extension."""
    return not is_clutter(name) and os.path.splitext(name)[1].lower() in EXTENSIONS


def walk(folder: Path, *, recursive: bool = True, lenient: bool = False) -> Iterator[Path]:
    """Yields the images of a folder, sorted by name, then those of each subfolder, in the order of their names.

    Args:
        folder: the folder to search.
        recursive: whether to search subfolders.
        lenient: whether to yield an unreadable subfolder itself, so that the code that reads the images reports it.

    Raises:
        DataError: a folder cannot be read.

    Only the names of a few folders are in memory at a time, so a million images cost little. Hidden files and folders
    and system files (`kcv.images.files`) are skipped. Links to folders are followed, but each folder is visited only
    once, so a link back to a parent causes no loop.
    """
    folders: list[tuple[str, bool]] = []
    for here in each_once(str(folder), lambda _: sorted(folders)):
        files: list[str] = []
        folders.clear()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if is_clutter(entry.name):
                        continue
                    if is_folder(entry):
                        folders.append((entry.name, is_linked(entry)))
                    elif is_image_name(entry.name):
                        files.append(entry.name)
        except OSError as error:
            if lenient and here != str(folder):
                folders.clear()
                yield Path(here)
                continue
            raise DataError(f"{shortened(here)}: cannot be read: {error.strerror or error}") from None
        yield from (Path(here, name) for name in sorted(files))
        if not recursive:
            return


def find(paths: Sequence[str | Path], *, recursive: bool = False) -> Iterator[Path]:
    """Yields the images of files, folders and glob patterns, in the given order.

    A file given by name is included regardless of its extension. A path given twice is yielded twice.

    Args:
        paths: files, folders and patterns. All are checked at the call; images are searched for lazily.
        recursive: whether a folder includes its subfolders.

    Raises:
        DataError: a path does not exist, a pattern matches no image, or a folder contains none.
    """
    return chain.from_iterable([_find(given, recursive) for given in paths])


def _find(given: str | Path, recursive: bool) -> Iterable[Path]:
    path = expand_user(given)
    if os.path.isdir(path):  # unlike Path.is_dir, it returns False for an invalid name
        images = walk(path, recursive=recursive, lenient=True)
    elif os.path.exists(path):
        return [path]
    elif glob.has_magic(str(path)):
        images = _match(str(path), recursive)
    else:
        raise DataError(f"{shortened(given)}: no such file or folder.")
    first = next(images, None)
    if first is not None:
        return chain([first], images)
    if os.path.isdir(path) and not recursive and next(walk(path), None) is not None:
        raise DataError(f"{given}: no images there, only in folders below it; --recursive takes those.")
    raise DataError(f"{shortened(given)}: no images there ({', '.join(sorted(EXTENSIONS))}).")


def _match(pattern: str, recursive: bool) -> Iterator[Path]:
    for match in map(Path, matches(pattern)):
        if os.path.isdir(match):  # Path.is_dir raises if a folder is not accessible
            yield from walk(match, recursive=recursive, lenient=True)
        elif is_image_name(match.name):
            yield match


def read_list(stream: IO[bytes]) -> Iterator[Path]:
    """Yields the paths in a stream as they arrive: one per line, or terminated by NUL bytes, as from `find -print0`.

    The paths are not checked; a missing image is noticed when it is read.
    """
    rest, end, begun = b"", b"\n", False
    read = getattr(stream, "read1", stream.read)  # read1 does not wait for more bytes
    while block := read(_READ):
        rest += block
        if not begun and len(rest) >= len(codecs.BOM_UTF8):
            rest, begun = rest.removeprefix(codecs.BOM_UTF8), True  # a byte order mark, which Windows editors write
        if b"\0" in rest:
            end = b"\0"
        *names, rest = rest.split(end)
        yield from _listed(names, end)
    yield from _listed([rest], end)


def _listed(names: Iterable[bytes], end: bytes) -> Iterator[Path]:
    for name in names:
        text = name.removesuffix(b"\r") if end == b"\n" else name
        if text:
            yield Path(os.fsdecode(text))


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


_NAMES: Final = frozenset({
    "__macosx", "icon\r", "network trash folder", "temporary items",  # macOS
    "@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin",  # Synology
    "@recycle", "@recently-snapshot", "@__thumb",  # QNAP
    "$recycle.bin", "system volume information",  # Windows
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "lost+found", "__pycache__",
})  # fmt: skip


def is_clutter(name: str) -> bool:
    """Returns whether a file or folder of this name is hidden, or was created by a system and not by a user."""
    return name.startswith(".") or name.lower() in _NAMES
