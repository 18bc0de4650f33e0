"""The user's own pictures: PATH/<class>/*.jpg, or PATH/train|val|test/<class>/*.jpg."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kcv.data.classes import align
from kcv.data.dataset import Samples, Source
from kcv.data.file_names import FileNames, FilePaths
from kcv.errors import DataError
from kcv.images.files import is_picture_name, walk

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_LAYOUT = "expected one folder a class with its pictures, PATH/<class>/*.jpg, or PATH/train|val|test/<class>/*.jpg"


def open_source(path: Path, name: str | None = None) -> Source:
    """Lists the pictures below the class folders of `path`; none is opened.

    A folder `train` (`val`, `test` ...) is a split where it holds folders and no pictures; otherwise it is a class of
    that name. Beside splits, other folders are not read. Folders inside a class folder belong to the class. Hidden
    files and files that are no pictures are left out.

    Args:
        path: the folder.
        name: what the source is called; by default the path.

    Raises:
        DataError: no class folders, or no pictures in them.
    """
    name = name or str(path)
    folders = _subfolders(path)
    split_folders = [folder for folder in folders if folder.name in SPLIT_FOLDERS and _holds_classes(folder)]
    if split_folders:
        found: dict[str, Path] = {}
        for folder in split_folders:
            split = SPLIT_FOLDERS[folder.name]
            if split in found:
                raise DataError(f"{name}: {found[split].name} and {folder.name} are both the {split} split; keep one.")
            found[split] = folder
        return align(name, {split: _read(folder, path, name) for split, folder in found.items()}, root=path)
    if not folders:
        loose = any(is_picture_name(child.name) for child in path.iterdir())
        raise DataError(f"{name}: {'holds pictures but no class folders' if loose else 'no pictures'}; {_LAYOUT}.")
    return align(name, {"train": _read(path, path, name)}, flat=True, root=path)


def _read(folder: Path, root: Path, name: str) -> tuple[list[str], Samples]:
    """Returns the class names of one split, sorted, and its pictures. Classes may be empty, the split may not."""
    class_folders = _subfolders(folder)
    counts: list[int] = []

    def found() -> Iterator[str]:
        for class_folder in class_folders:
            files = sorted(walk(class_folder))
            counts.append(len(files))
            yield from (file.relative_to(root).as_posix() for file in files)

    names = FileNames.of(found())
    if not len(names):
        below = "" if folder == root else f" in {folder.relative_to(root)}"
        raise DataError(f"{name}: no pictures{below}; {_LAYOUT}.")
    samples = Samples(FilePaths(root, names), np.repeat(np.arange(len(counts)), counts), names)
    return [class_folder.name for class_folder in class_folders], samples


def _subfolders(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not _hidden(child.name))
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror}).") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # what macOS adds to zip files


def _holds_classes(folder: Path) -> bool:
    loose = any(is_picture_name(child.name) for child in folder.iterdir())
    return bool(_subfolders(folder)) and not loose
