"""Parquet in the Hugging Face layout: a file, a folder of files, or a URL; `kcv.data.parquet` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kcv.data.sources import PathSource, register

if TYPE_CHECKING:
    from kcv.data.dataset import Source


def _recognises(path: Path) -> bool:
    from kcv.data.parquet.source import is_parquet

    return is_parquet(path)


def _open(path: Path, name: str) -> Source:
    from kcv.data.parquet.source import open_source

    return open_source(path, name)


def _open_url(url: str) -> Source:
    from kcv.data.parquet.source import open_url

    return open_url(url)


register(PathSource("a .parquet file", _recognises, _open, _open_url))
