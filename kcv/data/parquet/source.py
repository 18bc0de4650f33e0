"""Opens Parquet in the Hugging Face layout: a column of images (struct of bytes and path, or binary), one of labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kcv.common.redaction import data_without_credentials
from kcv.common.text import shortened
from kcv.common.untrusted import refusing
from kcv.data.classes import align
from kcv.data.dataset import Samples, Source
from kcv.data.holding import Part, held
from kcv.data.parquet import bounded_rows
from kcv.data.parquet import labels as parquet_labels
from kcv.data.parquet.labels import UNLABELLED, Labels
from kcv.data.parquet.row_groups import ParquetGroups
from kcv.data.parquet.schema import columns_of
from kcv.data.parquet.shards import Shard, local_shards, remote_shards
from kcv.data.row_images import RowImages, RowNames
from kcv.data.sources import NO_OPTIONS, SourceOptions
from kcv.errors import DataError

EAGER_BYTES = 2**28
"""Local files up to this total size are read at once; the images of larger and of remote ones stay in their files."""

_MOST_HELD = 2**29  # the maximum total size, in bytes, of the images of such files

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    """The data that is read when a file is opened.

    Attributes:
        labels: the labels of its rows.
        column: path of the leaf column of the images.
        group_rows: the number of rows of each row group.
        encoded_bytes: the approximate total size of the images.
    """

    labels: Labels
    column: str
    group_rows: tuple[int, ...]
    encoded_bytes: int


def is_parquet(path: Path) -> bool:
    """Returns whether `path` is a Parquet file, or a folder with Parquet files in or below it; see `local_shards`."""
    return bool(local_shards(path)) if os.path.isdir(path) else path.suffix.lower() == ".parquet"


def open_source(path: Path, name: str | None = None, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens a Parquet file, or the Parquet files in a folder and below it.

    Files whose name (or otherwise folder) begins with train, val, valid, validation or test form that split; if there
    is no such name, all rows form one source without splits. Integer labels get class names from the schema's metadata
    (Hugging Face `ClassLabel`), or are their own names if it has none; text labels are the names. Validation and test
    rows without a label (null, or -1 if names are declared) are left out. Up to `EAGER_BYTES` of encoded images are
    held in memory; larger sets stay on disk (`kcv.data.row_images`).

    Args:
        path: a file or folder.
        name: the name of the source; by default the path.
        options: the columns, and which of several sets of images.

    Raises:
        DataError: there is no Parquet file; a column is missing or has another type; a value is null, or a label out of
            range; there are several sets of images; or a file needs far more memory than its size.
    """
    name = name or str(path)
    shards = local_shards(path)
    if not shards:
        raise DataError(f"{name}: no Parquet files there.")
    return open_shards(shards, name, options)


def open_url(url: str, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens the Parquet files behind a URL like `open_source`; the images stay there until they are needed.

    Raises:
        DataError: as for `open_source`, or the URL cannot be reached, see `kcv.data.parquet.shards.remote_shards`.
    """
    return open_shards(remote_shards(url), shortened(data_without_credentials(url)), options)


def open_shards(shards: Sequence[Shard], name: str, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens Parquet files like `open_source`."""
    if options.config is not None:
        shards = _of_configuration(shards, options, name)
    by_split: dict[str | None, list[Shard]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    if None in by_split and len(by_split) > 1:
        stray = by_split[None][0].names[0]
        raise DataError(f"{name}: {stray} belongs to no split; begin its name with train-, validation- or test-.")
    flat = None in by_split
    if not flat:
        _require_one_set(by_split, name)
    eagerly = all(shard.local for shard in shards) and sum(shard.size for shard in shards) <= EAGER_BYTES
    parts = {split or "train": _merge(files, split or "train", name, options) for split, files in by_split.items()}
    parts = _labelled(parts, name)
    return align(name, held(parts, _MOST_HELD) if eagerly else parts, flat=flat)


def _of_configuration(shards: Sequence[Shard], options: SourceOptions, name: str) -> list[Shard]:
    """Returns the files of the configuration that the user named: the folders that hold them, or one of these."""
    wanted = options.config
    found = [shard for shard in shards if wanted in (shard.configuration, *shard.configuration.split("/"))]
    if found or not options.firm:
        return found or list(shards)
    known = sorted({shard.configuration for shard in shards if shard.configuration})
    raise DataError(
        f"{name}: has no configuration {shortened(wanted)!r}; it has "
        f"{', '.join(known[:12]) + (', ...' if len(known) > 12 else '') if known else 'only one'}."
    )


def _require_one_set(by_split: Mapping[str | None, Sequence[Shard]], name: str) -> None:
    """Raises DataError if a split is in several folders: those are separate data sets and must not be mixed."""
    for split, shards in by_split.items():
        sets = sorted({shard.configuration for shard in shards if shard.configuration})
        if len(sets) > 1:
            known = ", ".join(sets[:5]) + (", ..." if len(sets) > 5 else "")
            raise DataError(
                f"{name}: the {split} split is in several folders, which are taken for several sets of images: "
                f"{known}; name one of them: --data.config={sets[0]}, or {name.rstrip('/')}/{sets[0]}."
            )


def _labelled(parts: dict[str, Part], name: str) -> dict[str, Part]:
    """Leaves out rows without a label, with one warning per split; only rows of train must have a label."""
    kept: dict[str, Part] = {}
    numbers = parts["train"][0] if "train" in parts else ()
    for split, (names, samples) in parts.items():
        labels = samples.labels
        if split != "train" and names == (str(UNLABELLED),) and names[0] not in numbers:
            labels = np.full_like(labels, UNLABELLED)  # numbers without names: -1 is a class only if train has it
        known = np.flatnonzero(labels != UNLABELLED)
        if not len(known):
            _log.warning("%s: the %s split has no labels and is left out", name, split)
            continue
        if len(known) < len(labels):
            _log.warning(
                "%s: %d of %d images of the %s split have no label and are left out",
                name, len(labels) - len(known), len(labels), split,
            )  # fmt: skip
            samples = samples.take(known)
        kept[split] = names, samples
    if not kept:
        raise DataError(f"{name}: no image has a label.")
    return kept


def _merge(shards: Sequence[Shard], split: str, name: str, options: SourceOptions) -> Part:
    """Returns the class names and the rows of a split; the images stay in the files."""
    files: list[_File] = []
    for shard in shards:
        files.append(_read(shard, split, sum(len(file.labels.codes) for file in files), options))
    if not sum(len(file.labels.codes) for file in files):
        raise DataError(f"{name}: the {split} split has no rows.")
    declared = next((file.labels.names for file in files if file.labels.declared), None)
    present = {file.labels.names[code] for file in files for code in np.unique(file.labels.codes) if code != UNLABELLED}
    numeric = all(file.labels.numeric for file in files)
    order = declared or tuple(sorted(present, key=(lambda text: int(text)) if numeric else None))
    position = {class_name: i for i, class_name in enumerate(order)}
    if not present <= position.keys():
        raise DataError(f"{name}: the files of the {split} split declare different class names.")
    # The last entry is for UNLABELLED, which is -1.
    tables = [np.array([*(position.get(text, UNLABELLED) for text in f.labels.names), UNLABELLED]) for f in files]
    labels = np.concatenate([table[file.labels.codes] for table, file in zip(tables, files, strict=True)])
    counts = [len(file.group_rows) for file in files]
    groups = ParquetGroups(
        shards,
        np.repeat(np.arange(len(files)), counts),
        np.concatenate([np.arange(count) for count in counts]),
        np.cumsum([count for file in files for count in file.group_rows]),
        [file.column for file in files],
        sum(file.encoded_bytes for file in files),
    )
    everything = np.arange(len(labels))
    return order, Samples(RowImages(groups, everything), labels, RowNames(split, everything))


def _read(shard: Shard, split: str, offset: int, options: SourceOptions) -> _File:
    """Reads the labels of a file; `offset` rows of its split are in the files before it."""
    file = shard.open()
    try:
        required = split == "train"
        with refusing(shard.name, DataError, bounded_rows.NOT_PARQUET):
            columns = columns_of(file.schema_arrow, shard.name, labelled=required, options=options)
            metadata = file.metadata
            paths = [path for path in (columns.images, columns.labels) if path]
            bounded_rows.check_rows(shard, metadata, [bounded_rows.leaf_of(shard, file, path) for path in paths])
            labels = parquet_labels.read(
                shard, file, columns, lambda i: f"{shard.name}: row {i} ({split}/{offset + i})", required=required
            )
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            if len(labels.codes) != sum(group.num_rows for group in groups):
                raise DataError(f"{shard.name}: has {len(labels.codes):,} labels for "
                                f"{sum(group.num_rows for group in groups):,} rows.")  # fmt: skip
    finally:
        file.close()
    # Nearly all bytes of a row group belong to its images.
    rows, sizes = tuple(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
    return _File(labels, columns.images, rows, sizes)
