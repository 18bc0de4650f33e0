"""The user's own images in an archive of class folders; `kcv.data.archives` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kcv.data.sources import PathSource, SourceOptions, register

if TYPE_CHECKING:
    from kcv.data.dataset import Source


def _recognises(path: Path) -> bool:
    from kcv.data.archives.source import is_archive
    from kcv.data.webdataset.source import is_webdataset

    return is_archive(path) and not is_webdataset(path)


def _open(path: Path, name: str, options: SourceOptions) -> Source:
    from kcv.data.archives.source import open_source

    return open_source(path, name)


register(PathSource("an archive of class folders (.zip, .tar, .tar.gz)", _recognises, _open))
