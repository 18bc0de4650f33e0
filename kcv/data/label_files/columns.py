"""Finds the columns of a label file: the paths of the images, their labels, and their splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kcv.common.text import shortened
from kcv.data.label_files.table import Table
from kcv.data.sources import SourceOptions
from kcv.errors import DataError
from kcv.images import EXTENSIONS

PATH_NAMES: Final = (
    "path", "file_name", "filename", "filepath", "file_path", "image", "image_path", "img", "img_path", "file",
)  # fmt: skip
LABEL_NAMES: Final = ("label", "labels", "class", "class_name", "category")
SPLIT_NAMES: Final = ("split", "subset", "partition")


@dataclass(frozen=True)
class Columns:
    """The positions of the columns of a table.

    Attributes:
        path: of the paths.
        label: of the labels.
        split: of the splits; None if there is none.
    """

    path: int
    label: int
    split: int | None


def columns_of(table: Table, options: SourceOptions) -> Columns:
    """Finds the columns: those that the user named, or by their names, or the only ones of their type.

    Case does not matter in names. By type, paths are in the only column whose first values all end like images, and
    labels in the only column that is left.

    Raises:
        DataError: a column is missing, stands twice, or could be one of several.
    """
    if any(map(_names_image, table.names)):
        raise DataError(f"{table.path}: its first line must name its columns, such as path,label.")
    split = _by_name(table, SPLIT_NAMES)
    path = _position(table, options.column("image", table.names, str(table.path)))
    if path is None:
        path = _by_name(table, PATH_NAMES)
    if path is None:
        path = _path_by_type(table)
    label = _position(table, options.column("label", table.names, str(table.path)))
    if label is None:
        label = _by_name(table, LABEL_NAMES, path)
    if label is None:
        label = _label_by_type(table, (path, split))
    if label == path:
        raise DataError(f"{table.path}: column {table.names[path]!r} cannot hold both paths and labels.")
    return Columns(path, label, None if split in (path, label) else split)


def has_named_columns(table: Table) -> bool:
    """Returns whether a table has a column of paths and one of labels, by their names."""
    names = {name.casefold() for name in table.names}
    return bool(names & set(PATH_NAMES)) and bool(names & set(LABEL_NAMES))


def _position(table: Table, name: str | None) -> int | None:
    return None if name is None else table.names.index(name)


def _by_name(table: Table, usual: Sequence[str], other: int | None = None) -> int | None:
    folded = [name.casefold() for name in table.names]
    for name in usual:
        found = [position for position, each in enumerate(folded) if each == name and position != other]
        if len(found) > 1:
            raise DataError(f"{table.path}: has {len(found)} columns {name!r}.")
        if found:
            return found[0]
    return None


def _path_by_type(table: Table) -> int:
    found = [position for position, values in _values(table) if all(map(_names_image, values)) and values]
    if len(found) == 1:
        return found[0]
    why = f"; {_listed(table, found)} all hold paths" if found else ""
    raise DataError(
        f"{table.path}: needs a column 'path' or 'file_name' with the paths of the images; its columns: "
        f"{_listed(table, range(len(table.names)))}{why}. data.image_column=NAME names it."
    )


def _label_by_type(table: Table, others: Sequence[int | None]) -> int:
    found = [position for position, values in _values(table) if position not in others and all(map(_labels, values))]
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{table.path}: needs a column 'label' with the labels; "
        f"{'it could be any of' if found else 'its columns:'} {_listed(table, found or range(len(table.names)))}: "
        "data.label_column=NAME names it."
    )


def _values(table: Table) -> Iterator[tuple[int, list[Any]]]:
    """Yields the position and the first values of each column, without those that are missing."""
    for position in range(len(table.names)):
        yield position, [row[position] for row in table.peeked if row[position] not in (None, "")]


def _names_image(value: object) -> bool:
    return isinstance(value, str) and os.path.splitext(value)[1].lower() in EXTENSIONS


def _labels(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _listed(table: Table, positions: Sequence[int]) -> str:
    shown = ", ".join(repr(shortened(table.names[position], 60)) for position in positions[:12])
    return (shown + (", ..." if len(positions) > 12 else "")) or "none"
