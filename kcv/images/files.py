"""Finds the image files of a path, a folder, a pattern or a list, without opening them."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Final

from kcv.common.files import expand_user
from kcv.common.text import shortened
from kcv.errors import DataError
from kcv.images.clutter import is_clutter
from kcv.images.folders import each_once, is_folder, is_linked
from kcv.images.patterns import matches

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
    and system files (`kcv.images.clutter`) are skipped. Links to folders are followed, but each folder is visited only
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
