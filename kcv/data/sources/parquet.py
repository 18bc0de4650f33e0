"""Parquet in the Hugging Face layout: a file, a folder of files, or a URL; `kcv.data.parquet` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kcv.data.sources import PathSource, SourceOptions, register

if TYPE_CHECKING:
    from kcv.data.dataset import Source
    from kcv.data.objects.place import ObjectPlace


def _recognises(path: Path) -> bool:
    from kcv.data.label_files.recognising import is_label_source
    from kcv.data.parquet.source import is_parquet

    return is_parquet(path) and not is_label_source(path)


def _open(path: Path, name: str, options: SourceOptions) -> Source:
    from kcv.data.parquet.source import open_source

    return open_source(path, name, options)


def _recognises_url(url: str) -> bool:
    from kcv.data.webdataset.shards import is_shard_url

    return not is_shard_url(url)  # a folder too


def _open_url(url: str, options: SourceOptions) -> Source:
    from kcv.data.parquet.hub import open_repository
    from kcv.data.parquet.source import open_url

    return open_repository(url, options) if url.startswith("hf:") and "://" not in url else open_url(url, options)


def _recognises_objects(place: ObjectPlace) -> bool:
    from kcv.data.parquet.shards import object_shards

    return bool(object_shards(place))


def _open_objects(place: ObjectPlace, options: SourceOptions) -> Source:
    from kcv.data.parquet.shards import object_shards
    from kcv.data.parquet.source import open_shards

    return open_shards(object_shards(place), place.url, options)


register(
    PathSource(
        "a .parquet file",
        _recognises,
        _open,
        options=("image_column", "label_column", "config"),
        recognises_url=_recognises_url,
        open_url=_open_url,
        recognises_objects=_recognises_objects,
        open_objects=_open_objects,
    )
)
