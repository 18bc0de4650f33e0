"""WebDataset shards: a tar file, a pattern of them, a folder, or a URL; `kcv.data.webdataset` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kcv.data.sources import PathSource, SourceOptions, register

if TYPE_CHECKING:
    from kcv.data.dataset import Source
    from kcv.data.objects.place import ObjectPlace


def _recognises(path: Path) -> bool:
    from kcv.data.webdataset.source import is_webdataset

    return is_webdataset(path)


def _open(path: Path, name: str, options: SourceOptions) -> Source:
    from kcv.data.webdataset.source import open_source

    return open_source(path, name, options)


def _recognises_url(url: str) -> bool:
    from kcv.data.webdataset.shards import is_shard_url

    return is_shard_url(url)


def _open_url(url: str, options: SourceOptions) -> Source:
    from kcv.data.webdataset.source import open_url

    return open_url(url, options)


def _recognises_objects(place: ObjectPlace) -> bool:
    from kcv.data.webdataset.shards import object_shards

    return bool(object_shards(place))


def _open_objects(place: ObjectPlace, options: SourceOptions) -> Source:
    from kcv.data.webdataset.source import open_objects

    return open_objects(place, options)


register(
    PathSource(
        "WebDataset shards (.tar)",
        _recognises,
        _open,
        options=("image_column", "label_column"),
        recognises_url=_recognises_url,
        open_url=_open_url,
        recognises_objects=_recognises_objects,
        open_objects=_open_objects,
    )
)
