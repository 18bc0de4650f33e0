"""Recognises label files, and folders with one: Hugging Face's `metadata.csv`, `.jsonl` or `.parquet`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kcv.data.folder_tree.split_folders import split_of
from kcv.data.label_files.columns import PATH_NAMES, has_named_columns
from kcv.data.label_files.parquet_table import is_plain
from kcv.data.label_files.table import SUFFIXES, TEXT_SUFFIXES, open_table
from kcv.data.parquet.schema import holds_images
from kcv.data.parquet.shards import Shard
from kcv.errors import DataError
from kcv.images.files import is_image_name

METADATA: Final = tuple(f"metadata{suffix}" for suffix in SUFFIXES)


def is_label_source(path: Path) -> bool:
    """Returns whether a path is a label file, or a folder that is read by its metadata files.

    A folder with class folders is read by its metadata only if that has columns named as paths and labels. Where images
    lie beside the metadata, there is no other way to read the folder.
    """
    if os.path.isdir(path):
        files = [*metadata_files(path).values()]
        return any(map(_has_labels, files)) or any(_lies_beside_images(file.parent) for file in files)
    suffix = path.suffix.lower()
    return os.path.isfile(path) and (suffix in TEXT_SUFFIXES or (suffix == ".parquet" and _lists_paths(path)))


def metadata_files(folder: Path) -> dict[str | None, Path]:
    """Returns the metadata file of a folder (under None), or those of its folders named like splits, by their names."""
    if (file := _metadata(folder)) is not None:
        return {None: file}
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if split_of(entry.name))
    except OSError:  # reported by the reader of folders
        return {}
    found = {name: _metadata(folder / name) for name in names}
    return {name: file for name, file in found.items() if file is not None}


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if os.path.isfile(folder / name)), None)


def _has_labels(file: Path) -> bool:
    try:
        if file.suffix == ".parquet" and not _lists_paths(file):
            return False
        return has_named_columns(open_table(file))
    except DataError:
        return False


def _lies_beside_images(folder: Path) -> bool:
    def names() -> Iterator[str]:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if not entry.is_dir())

    try:
        return any(map(is_image_name, names()))
    except OSError:
        return False


def _lists_paths(path: Path) -> bool:
    """Returns whether a Parquet file has a column of texts that is named as one of paths, and none of images."""
    import pyarrow as pa

    try:
        file = Shard(str(path), str(path)).open()
    except DataError:
        return False
    try:
        schema = file.schema_arrow
        plain = [field for field in schema if is_plain(field.type) and not pa.types.is_integer(field.type)]
        texts = {field.name.casefold() for field in plain}
        return not holds_images(schema) and not texts.isdisjoint(PATH_NAMES)
    except Exception:  # a schema that pyarrow cannot convert; the reader of Parquet reports it
        return False
    finally:
        file.close()
