"""A folder tree, read lazily and each folder once; it reads names only and opens no file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kcv.common.text import shortened
from kcv.data.folder_tree.outputs import FILES, is_output
from kcv.errors import DataError, first_line
from kcv.images.files import contains, each_once, is_clutter, is_folder, is_image_name, is_linked


@dataclass(frozen=True)
class Folder:
    """The content of one folder, without hidden names and clutter (`kcv.images.files`).

    Attributes:
        place: its path below the root of the tree, with `/`; empty for the root itself.
        packed: names of its images, sorted and joined by NUL, so that a million take little memory.
        count: the number of its images.
        others: for its other files, the number and the first name by suffix (lower case).
        inner: names of its subfolders, sorted.
        links: the subfolders that are links.
        made: whether it is an output of kcv or MLflow.
        error: the reason why it cannot be listed; it then appears empty.
        upwards: names of links to a folder above, sorted; they are not in `inner`.
    """

    place: str
    packed: bytes
    count: int
    others: Mapping[str, tuple[int, str]]
    inner: tuple[str, ...]
    links: frozenset[str]
    made: bool
    error: str | None = None
    upwards: tuple[str, ...] = ()

    @property
    def images(self) -> list[str]:
        """Names of its images, sorted."""
        return [os.fsdecode(name) for name in self.packed.split(b"\0")] if self.packed else []


class Tree:
    """The folders below a root.

    Outputs of kcv and MLflow among them are hidden, except from `outputs`. Links to a folder above are not followed,
    because they could lead through the whole disk.

    Args:
        root: the folder; all places are paths below it.
        listed: lists a folder, from the root and its place; by default one on disk.
    """

    def __init__(self, root: Path, listed: Callable[[Path, str], Folder] | None = None) -> None:
        self.root = root
        self._listed = listed or _listed
        self._read: dict[str, Folder] = {}
        self._holding: dict[str, bool] = {}
        self._making: dict[str, bool] = {}
        self._real: dict[str, str] = {}

    def folder(self, place: str) -> Folder:
        """Returns the content of a folder."""
        if place not in self._read:
            self._read[place] = self._without_links_upwards(self._listed(self.root, place))
        return self._read[place]

    def below(self, place: str, *, links: bool = True) -> Iterator[Folder]:
        """Yields a folder and those below it, parents first, in the order of their names.

        Each folder is yielded once, so a link back to a parent causes no loop.

        Args:
            place: the first folder.
            links: whether to follow links.
        """

        def made(folder: Folder) -> bool:
            return folder.made and folder.place != place

        def inner(here: str) -> list[tuple[str, bool]]:
            folder = self.folder(here)
            names = () if made(folder) else folder.inner
            return [(name, name in folder.links) for name in names if links or name not in folder.links]

        found = map(self.folder, each_once(place, inner, join=join, real=self._real_path))
        return (folder for folder in found if not made(folder))

    def folders(self, place: str) -> list[str]:
        """Returns the names of the subfolders of a folder, sorted, without those that contain only outputs."""
        return [name for name in self.folder(place).inner if not self._is_output(join(place, name))]

    def outputs(self, place: str) -> list[str]:
        """Returns the names of the subfolders of a folder that contain only outputs of kcv or MLflow."""
        return [name for name in self.folder(place).inner if self._is_output(join(place, name))]

    def holding(self, place: str) -> list[str]:
        """Returns the names of the subfolders of a folder that contain images, at any depth."""
        return [name for name in self.folders(place) if self.holds(join(place, name))]

    def holds(self, place: str) -> bool:
        """Returns whether there are images below a folder."""
        return self._any(place, self._holding, lambda folder: folder.count > 0)

    def count(self, place: str) -> int:
        """Returns the number of images below a folder."""
        return sum(folder.count for folder in self.below(place))

    def require(self, place: str) -> None:
        """Checks that a folder can be listed.

        Raises:
            DataError: it cannot be listed.
        """
        if error := self.folder(place).error:
            raise DataError(f"{shortened(self.root / place)}: cannot be listed ({error}).")

    def images(self, place: str) -> list[str]:
        """Returns the paths, relative to the root, of all images below a folder, sorted by path components.

        Raises:
            DataError: a folder cannot be listed.
        """
        folders = list(self.below(place))
        for folder in folders:
            self.require(folder.place)
        found = [join(folder.place, name) for folder in folders for name in folder.images]
        return found if len(folders) == 1 else sorted(found, key=lambda path: path.split("/"))

    def _without_links_upwards(self, folder: Folder) -> Folder:
        if not folder.links:
            return folder
        parts = folder.place.split("/") if folder.place else []
        above = [self._real_path("/".join(parts[:count])) for count in range(len(parts) + 1)]
        targets = {name: self._real_path(join(folder.place, name)) for name in folder.links}
        upwards = {name for name, target in targets.items() if any(contains(target, place) for place in above)}
        inner = tuple(name for name in folder.inner if name not in upwards)
        return replace(folder, inner=inner, links=folder.links - upwards, upwards=tuple(sorted(upwards)))

    def _real_path(self, place: str) -> str:
        if place not in self._real:
            self._real[place] = os.path.realpath(self.root / place)
        return self._real[place]

    def _is_output(self, place: str) -> bool:
        folder = self.folder(place)
        if folder.made:
            return True
        if folder.count or not folder.inner or self.holds(place):
            return False
        return self._any(place, self._making, self._holds_output)

    def _holds_output(self, folder: Folder) -> bool:
        return any(self.folder(join(folder.place, name)).made for name in folder.inner)

    def _any(self, place: str, known: dict[str, bool], test: Callable[[Folder], bool]) -> bool:
        """Returns whether a test is true for a folder or one below it; caches the results for those in `known`."""
        if place in known:
            return known[place]
        passed: list[str] = []
        for folder in self.below(place):
            if test(folder):
                here = folder.place
                while here != place:
                    known[here] = True
                    here = here.rpartition("/")[0]
                known[place] = True
                return True
            passed.append(folder.place)
        known.update(dict.fromkeys(passed, False))
        return False


def join(place: str, name: str) -> str:
    """Returns the path of a name in a folder, relative to the root of a tree."""
    return f"{place}/{name}" if place else name


def _listed(root: Path, place: str) -> Folder:
    path = os.path.join(root, place) if place else str(root)
    try:
        with os.scandir(path) as entries:
            return folder_of(
                place,
                os.path.basename(path),
                (
                    (entry.name, folder, folder and is_linked(entry))
                    for entry in entries
                    for folder in [is_folder(entry)]
                ),
            )
    except (OSError, ValueError) as error:
        return Folder(place, b"", 0, {}, (), frozenset(), False, getattr(error, "strerror", None) or first_line(error))


def folder_of(place: str, called: str, entries: Iterable[tuple[str, bool, bool]]) -> Folder:
    """Returns the content of a folder.

    Args:
        place: its path below the root of its tree.
        called: its name.
        entries: the name of each of its entries, whether it is a folder, and whether it is a link to one.
    """
    images: list[str] = []
    others: dict[str, tuple[int, str]] = {}
    folders: list[str] = []
    links: list[str] = []
    names: set[str] = set()
    for name, folder, link in entries:
        if is_clutter(name) or name in FILES:
            continue
        if folder:
            folders.append(name)
            if link:
                links.append(name)
        elif is_image_name(name):
            images.append(name)
        else:
            suffix = os.path.splitext(name)[1].lower()
            count, first = others.get(suffix, (0, name))
            others[suffix] = (count + 1, min(first, name))
            names.add(name)
    images.sort()
    return Folder(
        place,
        b"\0".join(map(os.fsencode, images)),
        len(images),
        others,
        tuple(sorted(folders)),
        frozenset(links),
        is_output(called, names.union(folders), images),
    )


def tree_of(names: Iterable[str], root: Path) -> Tree:
    """Returns the folders of files that are not on disk: in an archive, or in an object store.

    Args:
        names: the paths of the files below the root.
        root: what holds them, for its name.
    """
    files: dict[str, list[str]] = {"": []}
    folders: dict[str, set[str]] = {}
    for name in names:
        place, _, base = name.rpartition("/")
        known = place in files
        files.setdefault(place, []).append(base)
        while not known and place:
            outer, _, inner = place.rpartition("/")
            known = inner in folders.setdefault(outer, set())
            folders[outer].add(inner)
            place = outer

    def listed(root: Path, place: str) -> Folder:
        inside = [(name, False, False) for name in files.get(place, ())]
        below = [(name, True, False) for name in folders.get(place, ())]
        return folder_of(place, place.rpartition("/")[2] or root.name, [*inside, *below])

    return Tree(root, listed)
