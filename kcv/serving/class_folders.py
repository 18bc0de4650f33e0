"""Class folders that images are filed in: names that kcv reads back as the same classes, and where each image lies."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from kcv.data.classes import listed
from kcv.data.folder_tree.source import read_tree
from kcv.data.folder_tree.tree import Folder, Tree, folder_of
from kcv.errors import DataError, UsageError
from kcv.images.files import is_clutter

_FILED = re.compile(r"[0-9a-f]{64}\.[a-z]{3,4}")
_MOST_BYTES = 255  # of a folder's name
_BLOCK = 4096  # bytes that a small file takes on disk


class ClassFolders:
    """The images that were filed in the class folders of a root, `ROOT/<class>/<SHA-256>.<suffix>`.

    Other files there are the operator's own, and are neither counted nor touched.

    Args:
        root: the folder; made when the first image is filed.
        class_names: the classes.

    Raises:
        UsageError: see `check_names`.
    """

    def __init__(self, root: Path, class_names: Sequence[str]) -> None:
        check_names(class_names)
        self.root = root
        self.class_names = frozenset(class_names)
        self._class_of: dict[str, str] = {}

    def count(self) -> int:
        """Looks at all class folders again; returns the bytes that the filed images take.

        Raises:
            OSError: a folder cannot be read.
        """
        self._class_of.clear()
        held = 0
        for class_name, entry in self._filed():
            self._class_of[entry.name] = class_name
            held += cost(entry.stat().st_size)
        return held

    def class_of(self, name: str) -> str | None:
        """Returns the class that an image lies in, by its file name; None if it was not filed."""
        return self._class_of.get(name)

    def path(self, class_name: str, name: str) -> Path:
        """Returns where an image of a class belongs."""
        return self.root / class_name / name

    def note(self, class_name: str, name: str) -> None:
        """Notes that an image lies in a class now."""
        self._class_of[name] = class_name

    def _filed(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            entries = sorted(os.scandir(self.root), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for folder in entries:
            if folder.name in self.class_names and folder.is_dir():
                with os.scandir(folder.path) as inner:
                    yield from ((folder.name, entry) for entry in inner if _FILED.fullmatch(entry.name))


def cost(size: int) -> int:
    """Returns the bytes of disk that a file of a size is counted as: whole blocks, so that small files count too."""
    return max(1, -(-size // _BLOCK)) * _BLOCK


def check_names(class_names: Sequence[str]) -> None:
    """Checks that a data set with folders of these names has these classes.

    A name is never changed to fit: the data set would then have another class than the model.

    Raises:
        UsageError: a name cannot be that of a folder, or kcv would take it for a split or for clutter.
    """
    if odd := [name for name in class_names if not _is_folder_name(name)]:
        raise UsageError(f"--feedback files images in folders named like the classes, but {listed(odd)} cannot be such "
                         "a name.")  # fmt: skip
    forms: dict[str, str] = {}
    for name in class_names:
        other = forms.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise UsageError(f"--feedback: the classes {other!a} and {name!a} would be one folder on some systems.")
    if missing := sorted(set(class_names) - _read_back(class_names)):
        raise UsageError(f"--feedback: kcv would not take folders named {listed(missing)} for classes.")


def _is_folder_name(name: str) -> bool:
    """Returns whether a name is one visible folder on any system, and not a path."""
    fits = 0 < len(os.fsencode(name)) <= _MOST_BYTES and name == name.strip() and not name.endswith(".")
    return fits and PureWindowsPath(name).name == name and not is_clutter(name)


def _read_back(class_names: Sequence[str]) -> set[str]:
    """Returns the classes that kcv would find in folders of these names, with an image in each."""

    def content(root: Path, place: str) -> Folder:
        entries = [("0.png", False, False)] if place else [(name, True, False) for name in class_names]
        return folder_of(place, place, entries)

    try:
        source = read_tree(Tree(Path("feedback"), content), "feedback", lambda names: [b""] * len(names))
    except DataError as error:
        reason = str(error).partition(": ")[2].partition(". ")[0]  # what follows is advice for a folder that exists
        raise UsageError(f"--feedback: a data set with folders named like the classes {reason}.") from None
    return set(source.class_names) if source.flat else set()
