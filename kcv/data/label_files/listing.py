"""The rows of label files as arrays: names, labels and splits of millions of images in little memory."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.text import shortened
from kcv.data.classes import MOST_CLASSES, MOST_NAME
from kcv.data.file_names import FileNames
from kcv.data.folder_tree.split_folders import splits_of
from kcv.data.label_files.columns import Columns
from kcv.data.label_files.places import Places
from kcv.data.label_files.table import Table
from kcv.errors import DataError

UNLABELLED: Final = ("", "-1")
"""Labels of images without one; -1 is Hugging Face's."""

_NUMBER: Final = re.compile(r"-?\d{1,18}(\.0+)?")
_MOST_SPLITS: Final = 100


class Listing:
    """Collects the images of one or more label files.

    Attributes:
        unlabelled: the number of rows that are left out because they have no label.
        repeated: the number of rows that are left out because they repeat another one.
    """

    def __init__(self) -> None:
        self.unlabelled = self.repeated = 0
        self._text = bytearray()
        self._ends = array("q")
        self._label = array("i")
        self._split = array("b")
        self._labels: dict[str, int] = {}
        self._codes: dict[str, int] = {}  # by the label as written, so that it is looked at once
        self._splits: dict[str, int] = {}

    def add(self, table: Table, columns: Columns, places: Places, split: str | None = None) -> None:
        """Adds the rows of a table.

        Args:
            table: the table.
            columns: its columns.
            places: turns its paths into names.
            split: the split of all rows, if the table has no column of splits.

        Raises:
            DataError: a value of a row cannot be used; the message names the row.
        """
        wanted = [columns.path, columns.label, *([] if columns.split is None else [columns.split])]
        text, end, add_label, add_split = self._text, self._ends.append, self._label.append, self._split.append
        labels, encode = self._codes, os.fsencode
        for number, (path, label, *of) in table.rows(wanted):
            try:
                code = labels.get(label) if type(label) is str else None
                if code is None and (code := self._code(label)) is None:
                    self.unlabelled += 1
                    continue
                if not isinstance(path, str):
                    raise DataError(f"the path is {'missing' if path is None else 'no text'}")
                text += encode(places.name(path))
                end(len(text))
                add_label(code)
                add_split(self._split_code(of[0] if of else split))
            except UnicodeEncodeError:
                raise DataError(f"{table.path}: {table.unit} {number}: the path is no file name.") from None
            except DataError as error:
                raise DataError(f"{table.path}: {table.unit} {number}: {error}.") from None

    def _code(self, label: Any) -> int | None:
        """Returns the position of a label in `_labels`; None if it stands for none."""
        if label is None:
            return None
        if isinstance(label, list):
            raise DataError("the label is a list; one label per image can be learned")
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise DataError(f"the label must be a name or a whole number, not {type(label).__name__}")
        text = label.strip() if isinstance(label, str) else str(label)
        if text in UNLABELLED:
            return None
        code = self._labels.get(text)
        if code is None:
            if len(text) > MOST_NAME:
                raise DataError(f"a label of {len(text):,} characters; {MOST_NAME:,} are allowed")
            if len(self._labels) >= MOST_CLASSES:
                raise DataError(f"the labels name more than {MOST_CLASSES:,} classes, which is refused")
            code = self._labels[text] = len(self._labels)
        if isinstance(label, str) and len(self._codes) < 2 * MOST_CLASSES:
            self._codes[label] = code
        return code

    def _split_code(self, split: Any) -> int:
        if split is None:
            split = ""
        if not isinstance(split, str):
            raise DataError(f"the split must be a name, not {type(split).__name__}")
        code = self._splits.get(split)
        if code is None:
            if len(self._splits) >= _MOST_SPLITS:
                raise DataError(f"{shortened(split)!r} is one of more than {_MOST_SPLITS} splits")
            code = self._splits[split] = len(self._splits)
        return code

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits as written in the files, in the order of their first rows; an empty text for none."""
        return tuple(self._splits)

    def split_by_folder(self) -> None:
        """Makes splits of the first folders of all paths, if each of them is named like one; otherwise does nothing."""
        firsts = [name.partition("/")[0] for name in self.names() if "/" in name]
        found = dict.fromkeys(firsts)
        if len(firsts) == len(self) and found and len(splits_of(found)) == len(found):
            self._splits = {first: code for code, first in enumerate(found)}
            self._split = array("b", map(self._splits.__getitem__, firsts))

    def names(self) -> FileNames:
        """Returns the names of all images."""
        return FileNames(bytes(self._text), np.frombuffer(self._ends, np.int64).copy())

    def split_codes(self) -> NDArray[np.int8]:
        """Returns the position of each image's split in `splits`."""
        return np.frombuffer(self._split, np.int8).copy()

    def labels(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Returns the class names, sorted, and the class of each image, int64 [n].

        If all labels are whole numbers, as text or as 3.0 too, they are sorted as numbers.
        """
        written = tuple(self._labels)
        codes = np.array(self._label, np.int64)
        if all(map(_NUMBER.fullmatch, written)):
            names = [str(int(text.partition(".")[0])) for text in written]
            class_names = tuple(sorted(set(names), key=int))
        else:
            names = list(written)
            class_names = tuple(sorted(names))
        position = {name: i for i, name in enumerate(class_names)}
        table = np.array([position[name] for name in names], np.int64)
        return class_names, table[codes] if len(codes) else codes


def without_repeats(names: FileNames, labels: NDArray[np.int64], class_names: Sequence[str], splits: Any) -> Any:
    """Returns the positions of the images without those that repeat an earlier row, ascending, int64 [m].

    Args:
        names: the name of each image.
        labels: the class of each image.
        class_names: the names of the classes.
        splits: int [n], the split of each image.

    Raises:
        DataError: an image stands in two rows with different labels or splits; the message names it.
    """
    hashes = np.fromiter((hash(name) for name in names), np.int64, len(names))
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    repeats: list[int] = []
    first: dict[str, int] = {}
    for place in same.tolist():
        for position in (int(order[place]), int(order[place + 1])):
            name = names[position]
            known = first.setdefault(name, position)
            if known == position:
                continue
            if labels[known] != labels[position]:
                both = " and ".join(repr(shortened(class_names[int(labels[i])], 60)) for i in (known, position))
                raise DataError(f"{shortened(name)} stands twice, with the labels {both}.")
            if splits[known] != splits[position]:
                raise DataError(f"{shortened(name)} stands in two splits.")
            repeats.append(position)
    return np.setdiff1d(np.arange(len(names)), np.array(repeats, np.int64)) if repeats else np.arange(len(names))
