"""Which image files a path, a folder, a pattern or a list stands for; none of them is opened."""

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
"""What the file names of each format end in, lower case."""

EXTENSIONS: Final = frozenset(chain.from_iterable(SUFFIXES.values()))
"""What an image's file name ends in when a folder is searched."""

_READ = 65536  # bytes of a list that are read at a time


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: not hidden, and a known extension."""
    return not is_clutter(name) and os.path.splitext(name)[1].lower() in EXTENSIONS


def walk(folder: Path, *, recursive: bool = True, lenient: bool = False) -> Iterator[Path]:
    """Yields the images of a folder: its own by name, then those of each folder in it, in the order of their names.

    Args:
        folder: where to look.
        recursive: whether to look into the folders in it.
        lenient: whether a folder in it that cannot be read is yielded itself, for whoever reads images to say so.

    Raises:
        DataError: a folder cannot be read.

    Only the names of some folders at a time are held, so a million images cost little. Hidden files and folders, and
    what systems leave there (`kcv.images.clutter`), are skipped. Links to folders are followed, each folder once, so a
    link back to a parent makes no loop.
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
    """Yields the images that files, folders and glob patterns stand for, in the order given.

    A file given by its own name is taken whatever its extension. What is given twice comes twice.

    Args:
        paths: what to look at. All of it is checked when this is called; images are found as they are taken.
        recursive: whether a folder stands for all below it, too.

    Raises:
        DataError: a path does not exist, a pattern matches no image, or a folder holds none.
    """
    return chain.from_iterable([_find(given, recursive) for given in paths])


def _find(given: str | Path, recursive: bool) -> Iterable[Path]:
    path = expand_user(given)
    if os.path.isdir(path):  # unlike a Path's, it is False for a name that no file can have
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
        if os.path.isdir(match):  # a Path's raises where a folder is closed
            yield from walk(match, recursive=recursive, lenient=True)
        elif is_image_name(match.name):
            yield match


def read_list(stream: IO[bytes]) -> Iterator[Path]:
    """Yields the paths that a stream lists, as they arrive: one a line, or ended by NUL bytes as by `find -print0`.

    Nothing is checked: whether there is an image shows when it is read.
    """
    rest, end, begun = b"", b"\n", False
    read = getattr(stream, "read1", stream.read)  # what is there already, where the stream can tell
    while block := read(_READ):
        rest += block
        if not begun and len(rest) >= len(codecs.BOM_UTF8):
            rest, begun = rest.removeprefix(codecs.BOM_UTF8), True  # as editors of Windows begin a text
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
