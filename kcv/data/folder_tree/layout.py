"""Decides which folders of a tree are splits and which are classes; ambiguous trees are refused.

The rules, in order:

1. A folder named train, training, val, valid, validation, dev, test, testing, eval or evaluation, in any case, is a
   split if it contains class folders. Images next to the class folders are left out.
2. A folder whose name contains such a word (seg_train, test1) is also a split if all folders next to it are splits as
   well, or if they all have a class in common.
3. Folders that only contain the folder with the splits are skipped (archive/dataset/train), and so is a folder in a
   split that has the same name (train/train).
4. A folder named train that contains only images, next to other folders of images, is a class. A tree that could be
   read both ways is refused, and so are splits without class folders; only a test split without class folders is left
   out, because its labels are often withheld.
5. All other folders are class folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from kcv.common.text import shortened
from kcv.data.folder_tree.split_folders import MOST_WRAPPED, named_splits, split_of, split_within, unwrapped
from kcv.data.folder_tree.tree import Tree, join
from kcv.errors import DataError

EXPECTED: Final = (
    "expected one folder per class with its images, PATH/<class>/*.jpg, or PATH/train|val|test/<class>/*.jpg"
)


@dataclass
class Layout:
    """The layout of a tree.

    Attributes:
        splits: by split, the place of the folder that contains its class folders; only `train` if the tree has no
            splits.
        flat: whether the tree has no splits.
        without_classes: places of test splits that contain images but no classes.
        notes: readable remarks for the user.
    """

    splits: Mapping[str, str]
    flat: bool = False
    without_classes: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)


def understand(tree: Tree, name: str) -> Layout:
    """Returns the layout of a tree.

    Args:
        tree: the tree of the whole source.
        name: the name of the source, for messages.

    Raises:
        DataError: the tree is ambiguous or has no usable layout; the message says how to fix it.
    """
    tree.require("")
    place = ""
    for _ in range(MOST_WRAPPED):
        if named := named_splits(tree, place):
            return _Reading(tree, name, place, named).layout()
        holding = tree.holding(place)
        if len(holding) != 1:
            break
        place = join(place, holding[0])
    return _class_folders(tree, name)


def _class_folders(tree: Tree, name: str) -> Layout:
    folders = tree.folders("")
    if not folders:
        loose = "holds images but no class folders" if tree.folder("").count else "no images"
        raise DataError(f"{name}: {loose}; {EXPECTED}.")
    _require_no_splits(tree, "", name)
    layout = Layout({"train": ""}, flat=True)
    inner = {folder: frozenset(tree.holding(folder)) for folder in tree.holding("")}
    same = next(iter(inner.values()), frozenset())
    if len(same) < 2 or any(tree.folder(folder).count for folder in inner):
        return layout
    if len(inner) == 1:
        (only,) = inner
        layout.notes.append(
            f"all images are below the one folder {only!r}; if the folders in it are the classes, name it: "
            f"--data=PATH/{only}"
        )
    elif len(set(inner.values())) == 1:
        layout.notes.append(
            f"all class folders hold the same folders ({_listed(sorted(same))}); if those are the classes, call the "
            "outer ones train, val and test, or name one of them"
        )
    return layout


def _require_no_splits(tree: Tree, place: str, name: str) -> None:
    """Refuses class folders that contain splits, because the splits would be mixed."""
    class_folders = [join(place, folder) for folder in tree.holding(place)]
    for folder in (each for class_folder in class_folders for each in tree.below(class_folder) if each.inner):
        holding = tree.holding(folder.place)
        exact = {split_of(each) for each in holding} - {None}
        within = [split_of(each) or split_within(each) for each in holding]
        if len(exact) > 1 or (len(set(within)) > 1 and all(within)):
            raise DataError(
                f"{name}: the folder {shortened(folder.place)} holds splits ({_listed(holding)}), which would be mixed "
                f"in one class; {EXPECTED}. If it holds all of the data, name it: --data=PATH/{folder.place}"
            )
    tops = [tree.holding(folder) for folder in class_folders]
    splits = {split_of(each) for inner in tops for each in inner}
    if len(splits) > 1 and None not in splits and all(tops):
        raise DataError(f"{name}: the class folders hold splits, which would be mixed; {EXPECTED}.")


class _Reading:
    """A level of a tree with folders that are named like splits.

    Args:
        tree: the tree of the whole source.
        name: the name of the source.
        place: the folder of this level.
        named: its folders that are named like splits, with their splits.
    """

    def __init__(self, tree: Tree, name: str, place: str, named: Mapping[str, str]) -> None:
        self._tree = tree
        self._name = name
        self._place = place
        self._named = named
        self._classes: dict[str, str] = {}  # split folder -> the folder that contains its class folders
        self._flat: list[str] = []  # split folders with images but no class folders
        self._empty: list[str] = []

    def layout(self) -> Layout:
        """Returns the layout; raises DataError as `understand` does."""
        for folder in self._named:
            self._look_into(folder)
        others = [folder for folder in self._tree.holding(self._place) if folder not in self._named]
        if not self._classes:
            return self._without_classes(others)
        self._require_one_each()
        for folder in self._flat:
            if self._named[folder] != "test":
                self._refuse(
                    f"{folder} holds images but no class folders; sort them into {folder}/<class>, or move it away"
                )
        for folder in self._empty:
            if self._tree.folder(join(self._place, folder)).inner:
                self._refuse(f"no images in {folder}; {EXPECTED}")
        if others and len(self._classes) + len(self._flat) == 1:
            self._refuse_both(next(iter(self._classes)), others)
        unusual = [folder for folder in self._classes if split_of(folder) is None]
        return Layout(
            {self._named[folder]: place for folder, place in self._classes.items()},
            without_classes=[join(self._place, folder) for folder in self._flat],
            notes=[f"taken for splits by a word in their names: {_listed(unusual)}"] if unusual else [],
        )

    def _look_into(self, folder: str) -> None:
        """Classifies a folder that is named like a split by its content."""
        self._tree.require(join(self._place, folder))
        place = unwrapped(self._tree, self._place, folder, self._named[folder])
        holding = self._tree.holding(place)
        loose = self._tree.folder(place).count
        if not holding:
            (self._flat if loose else self._empty).append(folder)
            return
        if len({split_of(inner) for inner in holding}) > 1 and all(map(split_of, holding)):
            self._refuse(f"{place} holds splits itself ({_listed(holding)}); name the folder that you mean")
        _require_no_splits(self._tree, place, self._name)
        inside = sum(self._tree.count(join(place, inner)) for inner in holding)
        if loose > inside:
            self._refuse(
                f"{place} holds {loose:,} images beside its class folders and {inside:,} in them; sort them into "
                f"{place}/<class>, or move them away"
            )
        self._classes[folder] = place

    def _require_one_each(self) -> None:
        found: dict[str, str] = {}
        for folder in [*self._classes, *self._flat]:
            split = self._named[folder]
            if split in found:
                self._refuse(f"{found[split]} and {folder} are both the {split} split; keep one")
            found[split] = folder

    def _without_classes(self, others: Sequence[str]) -> Layout:
        """Returns a layout of class folders if a folder named like a split can only be a class; otherwise refuses."""
        if not self._flat and not others:
            if self._place == "" and self._empty:
                self._refuse(f"no images; {EXPECTED}")
            return _class_folders(self._tree, self._name)
        only_train = {self._named[folder] for folder in self._flat} == {"train"}
        if self._place == "" and others and only_train and len(self._flat) == 1:
            layout = _class_folders(self._tree, self._name)
            layout.notes.append(f"{self._flat[0]!r} is taken for a class: images lie in it, and folders beside it")
            return layout
        if others and self._flat:
            self._refuse_both(self._flat[0], others)
        if not self._flat:
            self._refuse(f"no images in {self._empty[0]}; {EXPECTED}")
        self._refuse(
            f"no class folders in {_listed(self._flat)}; sort the images into {self._flat[0]}/<class>, or rename "
            "what is a class"
        )

    def _refuse_both(self, folder: str, others: Sequence[str]) -> NoReturn:
        self._refuse(
            f"can be read two ways: {folder!r} may be a split, or a class beside {_listed(others)}. If it is a class, "
            f"put all of them into PATH/train/; if it is a split, move the others away"
        )

    def _refuse(self, words: str) -> NoReturn:
        where = f"{self._place}: " if self._place else ""
        raise DataError(f"{self._name}: {where}{words}.")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(shortened(name, 60)) for name in names[:4])
    return shown + (", ..." if len(names) > 4 else "")
