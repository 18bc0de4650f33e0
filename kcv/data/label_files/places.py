"""The paths in a label file: relative to one folder, which they cannot leave.

A label file may come from anybody. It must not make kcv read, train on or show images elsewhere on the disk, so its
paths stay in the folder of the file, or in the one that the user names (`data.image_folder`).
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Final

from kcv.common.text import shortened
from kcv.errors import DataError

MOST_PATH: Final = 4_096
"""In characters."""

_DRIVE: Final = re.compile(r"[A-Za-z]:/")
_AWRY: Final = re.compile(r"^[/.]|//|/\.|/$|^[A-Za-z]:|\0")
"""What a plain path below a folder does not have."""


class Places:
    """Turns paths of a label file into names below a folder.

    Args:
        root: the folder.
        named: whether the user named the folder; if not, it is that of the file.
        shown: the folder in messages; by default its path.
    """

    def __init__(self, root: Path, *, named: bool, shown: str | None = None) -> None:
        self.root = root
        self._named = named
        self._shown = shown or str(root)
        self._whole = os.path.abspath(root).replace(os.sep, "/").rstrip("/") + "/"

    def name(self, path: str) -> str:
        """Returns the name of a file below the folder, with `/`.

        Links on the way are followed, like those in folders of images.

        Args:
            path: as written in the file; a backslash counts as `/`.

        Raises:
            DataError: the path leads out of the folder, or is none; the message lacks the row.
        """
        if not path or len(path) > MOST_PATH:
            raise DataError(f"the path is longer than {MOST_PATH:,} characters" if path else "the path is empty")
        if "\\" in path:
            path = path.replace("\\", "/")
        if not _AWRY.search(path):
            return path
        if "\0" in path:
            raise DataError("the path holds a NUL")
        if "://" in path:
            raise DataError(f"{shortened(path)!r} is a URL; only files are read")
        name = path
        if path.startswith("/") or _DRIVE.match(path):
            whole = posixpath.normpath(path)
            if not f"{whole}/".startswith(self._whole):
                raise self._outside(path)
            name = whole[len(self._whole) :]
        name = posixpath.normpath(name)
        if name == ".." or name.startswith("../"):
            raise self._outside(path)
        if name in (".", ""):
            raise DataError(f"{shortened(path)!r} is a folder, not an image")
        return name

    def _outside(self, path: str) -> DataError:
        folder = "data.image_folder" if self._named else "the folder of the label file"
        return DataError(
            f"{shortened(path)!r} leads out of {folder}, {shortened(self._shown)}; to read it, name the folder that "
            "holds all of the images: --data.image_folder=PATH"
        )
