"""The user's own images with a label file, or with Hugging Face's metadata; `kcv.data.label_files` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kcv.data.sources import PathSource, SourceOptions, register

if TYPE_CHECKING:
    from kcv.data.dataset import Source
    from kcv.data.objects.place import ObjectPlace


def _recognises(path: Path) -> bool:
    from kcv.data.label_files.recognising import is_label_source

    return is_label_source(path)


def _open(path: Path, name: str, options: SourceOptions) -> Source:
    from kcv.data.label_files.source import open_source

    return open_source(path, name, options)


def _recognises_objects(place: ObjectPlace) -> bool:
    from kcv.data.objects.labels import is_label_source

    return is_label_source(place)


def _open_objects(place: ObjectPlace, options: SourceOptions) -> Source:
    from kcv.data.objects.labels import open_source

    return open_source(place, options)


register(
    PathSource(
        "a label file (.csv, .tsv, .jsonl)",
        _recognises,
        _open,
        options=("image_column", "label_column", "image_folder"),
        recognises_objects=_recognises_objects,
        open_objects=_open_objects,
    )
)
