"""The user's own images: a folder with a folder of images per class; `kcv.data.folder_tree` reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.data.sources import PathSource, SourceOptions, register

if TYPE_CHECKING:
    from kcv.data.dataset import Source
    from kcv.data.objects.place import ObjectPlace


def _open(path: Path, name: str, options: SourceOptions) -> Source:
    from kcv.data.folder_tree.source import open_source

    return open_source(path, name)


def _recognises_objects(place: ObjectPlace) -> bool:
    return not place.single


def _open_objects(place: ObjectPlace, options: SourceOptions) -> Source:
    from kcv.data.objects.folders import open_source

    return open_source(place)


register(
    PathSource(
        "a folder of images",
        os.path.isdir,
        _open,
        recognises_objects=_recognises_objects,
        open_objects=_open_objects,
        last=True,
    )
)
