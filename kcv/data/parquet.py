"""Parquet in the Hugging Face layout: `image` or `img` (struct of bytes and path, or binary) and `label`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kcv.data.classes import align
from kcv.data.dataset import Encoded, Samples, Source
from kcv.data.row_pictures import RowGroups, RowNames, RowPictures
from kcv.data.shards import Shard, local_shards, remote_shards, unreadable
from kcv.errors import DataError
from kcv.redaction import data_without_credentials

if TYPE_CHECKING:
    import pyarrow as pa

SPLIT_PREFIXES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"


EAGER_BYTES = 2**28
"""Files of this machine up to so many bytes are read at once; larger sets, and those of other machines, stay there."""


@dataclass(frozen=True)
class _Rows:
    """The rows of one file.

    Attributes:
        pictures: encoded; None where they stay in the file.
        labels: int64 [n], positions in `names`.
        names: the classes that the file has, or declares.
        declared: whether the schema declares them, in an order that stands.
        numeric: whether they are numbers.
        column: of the pictures.
        group_rows: the rows of each row group.
        encoded_bytes: of the pictures, about.
    """

    pictures: list[bytes] | None
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    declared: bool
    numeric: bool
    column: str
    group_rows: tuple[int, ...]
    encoded_bytes: int


def is_parquet(path: Path) -> bool:
    """Whether `path` is a Parquet file, or a folder with Parquet files in it or one level below."""
    return bool(local_shards(path)) if os.path.isdir(path) else path.suffix.lower() == ".parquet"


def open_source(path: Path, name: str | None = None) -> Source:
    """Opens a Parquet file, or the Parquet files in a folder and one level below it.

    Files whose name (or else folder) begins with train, val, valid, validation or test are that split; without any
    such name all rows are one source without splits. Integer labels take the class names from the schema's metadata
    (Hugging Face `ClassLabel`) and are their own names where it has none; text labels are the names. Up to
    `EAGER_BYTES` of encoded pictures are held in memory; larger sets stay on disk (`kcv.data.row_pictures`).

    Args:
        path: a file or folder.
        name: what the source is called; by default the path.

    Raises:
        DataError: no Parquet, a column is missing or has another type, a null, or a label out of range.
    """
    name = name or str(path)
    shards = local_shards(path)
    if not shards:
        raise DataError(f"{name}: no Parquet files there.")
    return _open(shards, name, str(path))


def open_url(url: str) -> Source:
    """Opens the Parquet files behind a URL, as `open_source` does; their pictures stay there until they are needed.

    Raises:
        DataError: as `open_source`; or the URL cannot be reached, see `kcv.data.shards.remote_shards`.
    """
    shards, shown = remote_shards(url), data_without_credentials(url)
    return _open(shards, shown, shown.partition("://")[2].rstrip("/"))


def _open(shards: Sequence[Shard], name: str, root: str) -> Source:
    by_split: dict[str | None, list[Shard]] = {}
    for shard in shards:
        by_split.setdefault(_split_of(shard, root), []).append(shard)
    if None in by_split and len(by_split) > 1:
        stray = by_split[None][0].names[0]
        raise DataError(f"{name}: {stray} belongs to no split; begin its name with train-, validation- or test-.")
    eagerly = all(shard.local for shard in shards) and sum(map(_size, shards)) <= EAGER_BYTES
    parts = {
        split or "train": _merge(files, split or "train", name, eagerly=eagerly) for split, files in by_split.items()
    }
    return align(name, parts, flat=None in by_split)


def _size(shard: Shard) -> int:
    try:
        return Path(shard.place).stat().st_size
    except OSError:  # told when it is opened
        return 0


def _merge(shards: Sequence[Shard], split: str, name: str, *, eagerly: bool) -> tuple[tuple[str, ...], Samples]:
    files: list[_Rows] = []
    for shard in shards:
        files.append(_read(shard, f"{split}/", sum(len(rows.labels) for rows in files), eagerly=eagerly))
    if not sum(len(rows.labels) for rows in files):
        raise DataError(f"{name}: the {split} split has no rows.")
    declared = next((rows.names for rows in files if rows.declared), None)
    present = {rows.names[code] for rows in files for code in np.unique(rows.labels)}
    numeric = all(rows.numeric for rows in files)
    order = declared or tuple(sorted(present, key=(lambda text: int(text)) if numeric else None))
    position = {class_name: i for i, class_name in enumerate(order)}
    if not present <= position.keys():
        raise DataError(f"{name}: the files of the {split} split declare different class names.")
    tables = [np.array([position.get(text, -1) for text in rows.names], np.int64) for rows in files]
    labels = np.concatenate([table[rows.labels] for table, rows in zip(tables, files, strict=True)])
    if eagerly:
        pictures: list[Encoded] = [picture for rows in files for picture in rows.pictures or ()]
        return order, Samples(pictures, labels, [f"{split}/{i}" for i in range(len(labels))])
    counts = [len(rows.group_rows) for rows in files]
    groups = RowGroups(
        shards,
        np.repeat(np.arange(len(files)), counts),
        np.concatenate([np.arange(count) for count in counts]),
        np.cumsum([count for rows in files for count in rows.group_rows]),
        [rows.column for rows in files],
        sum(rows.encoded_bytes for rows in files),
    )
    everything = np.arange(len(labels))
    return order, Samples(RowPictures(groups, everything), labels, RowNames(split, everything))


def _read(shard: Shard, prefix: str, offset: int, *, eagerly: bool) -> _Rows:
    import pyarrow as pa
    import pyarrow.compute as pc

    file = shard.open()
    try:
        schema = file.schema_arrow
        column = _require_columns(schema, shard.name)
        table = file.read(columns=[column, LABEL_COLUMN] if eagerly else [LABEL_COLUMN])
        metadata = file.metadata
    except (pa.ArrowException, OSError) as error:
        raise unreadable(shard.name, error) from error
    finally:
        file.close()

    def row(i: int) -> str:
        return f"{shard.name}: row {i} ({prefix}{offset + i})"

    pictures = None
    if eagerly:
        values: list[Any] = table[column].to_pylist()
        pictures = [value["bytes"] if isinstance(value, dict) else value for value in values]
        if None in pictures:
            raise DataError(f"{row(pictures.index(None))}: the picture is null; its bytes must be in the file.")
    column_of_labels = table[LABEL_COLUMN].combine_chunks()
    if column_of_labels.null_count:
        first = int(pc.index(pc.is_null(column_of_labels), value=True).as_py())
        raise DataError(f"{row(first)}: the label is null.")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    # Nearly all bytes of a row group are its pictures'.
    shape = (column, tuple(group.num_rows for group in groups), sum(group.total_byte_size for group in groups))
    numeric = _is_integer(schema.field(LABEL_COLUMN).type)
    declared = _class_names(schema) if numeric else None
    if declared is not None:
        if pa.types.is_dictionary(column_of_labels.type):
            column_of_labels = column_of_labels.dictionary_decode()
        labels = column_of_labels.to_numpy(zero_copy_only=False).astype(np.int64)
        wrong = np.flatnonzero((labels < 0) | (labels >= len(declared)))
        if len(wrong):
            i = int(wrong[0])
            raise DataError(f"{row(i)}: label {labels[i]} is not one of 0 to {len(declared) - 1}, the classes that the "
                            "schema names.")  # fmt: skip
        return _Rows(pictures, labels, declared, True, False, *shape)
    if not pa.types.is_dictionary(column_of_labels.type):
        column_of_labels = column_of_labels.dictionary_encode()
    names = tuple(str(value) for value in column_of_labels.dictionary.to_pylist())
    labels = column_of_labels.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return _Rows(pictures, labels, names, False, numeric, *shape)


def _require_columns(schema: pa.Schema, file: str) -> str:
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


def _split_of(shard: Shard, root: str) -> str | None:
    path = PurePosixPath(data_without_credentials(shard.place))
    name, folder = shard.names
    for text in [name] if str(path) == root or str(path.parent) == root else [name, folder]:
        match = re.match(r"(train|validation|valid|val|test)(?![A-Za-z])", text)
        if match:
            return SPLIT_PREFIXES[match.group(1)]
    return None
