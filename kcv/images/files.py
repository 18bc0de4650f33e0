"""Which picture files a path, a folder or a pattern stands for; none of them is opened."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kcv.errors import DataError

EXTENSIONS: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
"""What a picture's file name ends in (lower case) when a folder is searched."""


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is taken for a picture: not hidden, and a known extension."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def walk(folder: Path) -> list[Path]:
    """Returns every picture file below a folder, sorted by path.

    Hidden files and folders are skipped. Links to folders are followed, each folder once, so a link back to a parent
    makes no loop.
    """
    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        new = []
        for child in sorted(folders):
            real = os.path.realpath(os.path.join(parent, child))
            if not child.startswith(".") and real not in seen:
                seen.add(real)
                new.append(child)
        folders[:] = new  # os.walk goes on with what is left here
        found.extend(Path(parent, file) for file in files if is_picture_name(file))
    return sorted(found)


def find(paths: Sequence[str | Path]) -> list[Path]:
    """Returns the pictures that files, folders (with all below them) and glob patterns stand for, each once, in order.

    A file given by its own name is taken whatever its extension.

    Raises:
        DataError: a path does not exist, a pattern matches no picture, or a folder holds none.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            pictures = walk(path)
        elif path.exists():
            pictures = [path]
        elif glob.has_magic(str(path)):
            pictures = _match(str(path))
        else:
            raise DataError(f"{given}: no such file or folder.")
        if not pictures:
            raise DataError(f"{given}: no pictures there ({', '.join(sorted(EXTENSIONS))}).")
        found.update(dict.fromkeys(pictures))
    return list(found)


def _match(pattern: str) -> list[Path]:
    pictures: list[Path] = []
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if match.is_dir():
            pictures += walk(match)
        elif is_picture_name(match.name):
            pictures.append(match)
    return pictures
