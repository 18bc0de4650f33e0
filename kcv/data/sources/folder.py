"""The user's own images: a folder with a folder of images per class; `kcv.data.folder_tree` reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.data.sources import PathSource, SourceOptions, register

if TYPE_CHECKING:
    from kcv.data.dataset import Source


def _open(path: Path, name: str, options: SourceOptions) -> Source:
    from kcv.data.folder_tree.source import open_source

    return open_source(path, name)


register(PathSource("a folder of images", os.path.isdir, _open, last=True))
