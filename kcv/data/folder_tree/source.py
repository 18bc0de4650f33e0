"""The user's own images: PATH/<class>/*.jpg, or PATH/train|val|test/<class>/*.jpg."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kcv.data.classes import align
from kcv.data.dataset import SPLITS, Encoded, Samples, Source
from kcv.data.file_names import FileNames, FilePaths
from kcv.data.folder_tree.layout import EXPECTED, Layout, understand
from kcv.data.folder_tree.summary import NOT_READ, UPWARDS, LeftOut, Link, Understood
from kcv.data.folder_tree.tree import Folder, Tree, join
from kcv.errors import DataError


def open_source(path: Path, name: str | None = None) -> Source:
    """Lists the images below the class folders of `path` without opening them.

    `kcv.data.folder_tree.layout` decides which folders are splits and which are classes. Folders inside a class folder
    belong to the class. Hidden files, clutter (`kcv.images.files`) and outputs (`kcv.data.folder_tree.outputs`) are
    left out. So are files in other formats, images outside the class folders, and links to a folder above, which the
    `Source` reports.

    Args:
        path: the folder.
        name: the name of the source; by default the path.

    Raises:
        DataError: there are no class folders, or no images in them, or the tree is ambiguous.
    """
    return read_tree(Tree(path), name or str(path), lambda names: FilePaths(path, names), root=path)


def read_tree(
    tree: Tree, name: str, images: Callable[[FileNames], Sequence[Encoded]], *, root: Path | None = None
) -> Source:
    """Returns the images below the class folders of a tree, as `open_source` does.

    Args:
        tree: the folders.
        name: the name of the source.
        images: returns the images of the given names below the root of the tree.
        root: see `Source.root`.

    Raises:
        DataError: as for `open_source`.
    """
    layout = understand(tree, name)
    parts = {split: _read(tree, place, name, images) for split, place in layout.splits.items()}
    source = align(name, parts, flat=layout.flat, root=root)
    understood = Understood(
        source.class_names,
        {} if layout.flat else {split: layout.splits[split] for split in SPLITS if split in layout.splits},
        {split: len(samples) for split, samples in source.splits.items()},
        *_Leftovers(tree, layout).found(),
        notes=layout.notes,
    )
    return replace(source, understood=understood)


def _read(
    tree: Tree, place: str, name: str, images: Callable[[FileNames], Sequence[Encoded]]
) -> tuple[list[str], Samples]:
    """Returns the class names of one split, sorted, and its images. Classes may be empty, but not the split."""
    class_names = tree.folders(place)
    _require_different(class_names, name)
    counts: list[int] = []

    def found() -> Iterator[str]:
        for class_name in class_names:
            files = tree.images(join(place, class_name))
            counts.append(len(files))
            yield from files

    names = FileNames.of(found())
    if not len(names):
        raise DataError(f"{name}: no images{f' in {place}' if place else ''}; {EXPECTED}.")
    return class_names, Samples(images(names), np.repeat(np.arange(len(counts)), counts), names)


def _require_different(class_names: list[str], name: str) -> None:
    """Refuses folders whose names differ only in their Unicode form: one visible class would become two."""
    forms: dict[str, str] = {}
    for class_name in class_names:
        form = unicodedata.normalize("NFC", class_name)
        if form in forms:
            both = f"{forms[form]!a} and {class_name!a}"
            raise DataError(f"{name}: the class folders {both} have one name in two Unicode forms; merge them.")
        forms[form] = class_name


@dataclass
class _Leftovers:
    """Finds the unused files of a tree, and why they are not used."""

    tree: Tree
    layout: Layout
    files: dict[tuple[str, str], tuple[int, str]] = field(default_factory=lambda: defaultdict(lambda: (0, "")))
    outputs: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def found(self) -> tuple[list[LeftOut], list[str], list[Link]]:
        """Returns the files, the most numerous kind first, the folders written by kcv or MLflow, and the links."""
        class_folders = {
            join(place, name) for place in self.layout.splits.values() for name in self.tree.folders(place)
        }
        for class_folder in sorted(class_folders):
            for folder in self.tree.below(class_folder):
                self._unused(folder)
        pending = [""]
        while pending:
            place = pending.pop()
            folder = self.tree.folder(place)
            self._unused(folder)
            why = self._why(place)
            for name in folder.images if folder.count else ():
                self._add(os.path.splitext(name)[1].lower(), 1, why, join(place, name))
            # Links are not followed where only unused files are counted, because they may lead out of the data.
            for name in reversed(self.tree.folders(place)):
                inner = join(place, name)
                if name in folder.links and not self._is_used(inner):
                    self.links.append(Link(inner, self._why(inner)))
                elif inner not in class_folders:
                    pending.append(inner)
        left_out = [LeftOut(suffix, count, why, example) for (suffix, why), (count, example) in self.files.items()]
        left_out.sort(key=lambda one: (-one.count, one.example))
        return left_out, sorted(self.outputs), sorted(self.links, key=lambda link: link.place)

    def _why(self, place: str) -> str:
        if any(place == each or place.startswith(f"{each}/") for each in self.layout.without_classes):
            return "in a test split without class folders"
        return "outside the class folders" if place == "" or self._is_used(place) else "beside the splits"

    def _is_used(self, place: str) -> bool:
        """Returns whether class folders are read from a folder or from below it."""
        return any(each == place or each.startswith(f"{place}/") for each in self.layout.splits.values())

    def _unused(self, folder: Folder) -> None:
        self.outputs += [join(folder.place, name) for name in self.tree.outputs(folder.place)]
        self.links += [Link(join(folder.place, name), UPWARDS) for name in folder.upwards]
        for suffix, (count, example) in folder.others.items():
            self._add(suffix, count, NOT_READ, join(folder.place, example))

    def _add(self, suffix: str, count: int, why: str, example: str) -> None:
        before, first = self.files[suffix, why]
        self.files[suffix, why] = (before + count, min(first, example) if before else example)
