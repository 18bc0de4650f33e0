"""Parquet in the Hugging Face layout: `image` or `img` (struct of bytes and path, or binary) and `label`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kcv.data.classes import align
from kcv.data.dataset import Encoded, Samples, Source
from kcv.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SPLIT_PREFIXES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"


@dataclass(frozen=True)
class _Rows:
    """The rows of one file: its pictures, the class name of each, and the order of the classes where it is declared."""

    pictures: list[bytes]
    classes: list[str]
    declared: tuple[str, ...] | None
    numeric: bool


def is_parquet(path: Path) -> bool:
    """Whether `path` is a Parquet file, or a folder with Parquet files in it or one level below."""
    if path.is_dir():
        return bool(_files(path))
    return path.suffix.lower() == ".parquet"


def open_source(path: Path, name: str | None = None) -> Source:
    """Reads a Parquet file, or the Parquet files in a folder and one level below it.

    Files whose name (or else folder) begins with train, val, valid, validation or test are that split; without any
    such name all rows are one source without splits. Integer labels take the class names from the schema's metadata
    (Hugging Face `ClassLabel`) and are their own names where it has none; text labels are the names. The encoded
    pictures are held in memory.

    Args:
        path: a file or folder.
        name: what the source is called; by default the path.

    Raises:
        DataError: no Parquet, a column is missing or has another type, a null, or a label out of range.
    """
    name = name or str(path)
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{name}: no Parquet files there.")
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, path), []).append(file)
    if None in by_split and len(by_split) > 1:
        stray = by_split[None][0].name
        raise DataError(f"{name}: {stray} belongs to no split; begin its name with train-, validation- or test-.")
    parts = {split or "train": _merge(files, split or "train", name) for split, files in by_split.items()}
    return align(name, parts, flat=None in by_split)


def _merge(files: Sequence[Path], split: str, name: str) -> tuple[tuple[str, ...], Samples]:
    pictures: list[Encoded] = []
    classes: list[str] = []
    declared: tuple[str, ...] | None = None
    numeric = True
    for file in files:
        rows = _read(file, f"{split}/", len(pictures))
        pictures += rows.pictures
        classes += rows.classes
        declared = declared or rows.declared
        numeric = numeric and rows.numeric
    if not pictures:
        raise DataError(f"{name}: the {split} split has no rows.")
    present = set(classes)
    order = declared or tuple(sorted(present, key=(lambda text: int(text)) if numeric else None))
    position = {class_name: i for i, class_name in enumerate(order)}
    if not present <= position.keys():
        raise DataError(f"{name}: the files of the {split} split declare different class names.")
    labels = np.array([position[class_name] for class_name in classes], dtype=np.int64)
    return order, Samples(pictures, labels, [f"{split}/{i}" for i in range(len(pictures))])


def _read(file: Path, prefix: str, offset: int) -> _Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():  # a pipe would block
        raise DataError(f"{file}: is no regular file.")
    try:
        schema = pq.read_schema(file)
        image_column = _require_columns(schema, file)
        table = pq.read_table(file, columns=[image_column, LABEL_COLUMN])
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: cannot be read as Parquet ({reason}).") from error

    def row(i: int) -> str:
        return f"{file}: row {i} ({prefix}{offset + i})"

    images = table[image_column]
    values: list[Any] = images.to_pylist()
    pictures = [value["bytes"] if isinstance(value, dict) else value for value in values]
    if None in pictures:
        raise DataError(f"{row(pictures.index(None))}: the picture is null; its bytes must be in the file.")
    labels: list[Any] = table[LABEL_COLUMN].to_pylist()
    if None in labels:
        raise DataError(f"{row(labels.index(None))}: the label is null.")
    if not _is_integer(schema.field(LABEL_COLUMN).type):
        return _Rows(pictures, labels, None, numeric=False)
    declared = _class_names(schema)
    if declared is None:
        return _Rows(pictures, [str(label) for label in labels], None, numeric=True)
    for i, label in enumerate(labels):
        if not 0 <= label < len(declared):
            raise DataError(
                f"{row(i)}: label {label} is not one of 0 to {len(declared) - 1}, the classes that the schema names."
            )
    return _Rows(pictures, [declared[label] for label in labels], declared, numeric=False)


def _require_columns(schema: pa.Schema, file: Path) -> str:
    """Returns the name of the picture column, or says what is wrong with the schema."""
    import pyarrow as pa

    columns = ", ".join(schema.names) or "none"
    image_column = next((column for column in IMAGE_COLUMNS if column in schema.names), None)
    if image_column is None:
        raise DataError(f"{file}: needs a column 'image' or 'img' with the pictures; its columns: {columns}.")
    if LABEL_COLUMN not in schema.names:
        raise DataError(f"{file}: needs a column 'label'; its columns: {columns}.")
    image_type = schema.field(image_column).type
    inner = image_type
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        inner = image_type.field("bytes").type
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise DataError(
            f"{file}: column {image_column!r} must be binary or a struct with binary 'bytes', not {image_type}."
        )
    label_type = schema.field(LABEL_COLUMN).type
    if pa.types.is_dictionary(label_type):
        label_type = label_type.value_type
    if not (_is_integer(label_type) or pa.types.is_string(label_type) or pa.types.is_large_string(label_type)):
        raise DataError(f"{file}: column 'label' must be integers or text, not {label_type}.")
    return image_column


def _is_integer(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind.value_type if pa.types.is_dictionary(kind) else kind))


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Returns the class names of `label` in the metadata that Hugging Face datasets writes, or None."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[LABEL_COLUMN]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _files(folder: Path) -> list[Path]:
    found = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    return sorted(file for file in found if not file.name.startswith(".") and not file.parent.name.startswith("."))


def _split_of(file: Path, root: Path) -> str | None:
    candidates = [file.name] if file == root or file.parent == root else [file.name, file.parent.name]
    for text in candidates:
        match = re.match(r"(train|validation|valid|val|test)(?![A-Za-z])", text)
        if match:
            return SPLIT_PREFIXES[match.group(1)]
    return None
