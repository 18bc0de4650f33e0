"""Folders in folders, deeper than Python calls nest or a path can say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nested(folder: Path, depth: int, image: str | None = None) -> Iterator[None]:
    """Makes `folder/d/d/...` so deep, with an empty file at the bottom, for as long as the block runs.

    Python's own ways to make and remove such trees call themselves for each level.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        if image is not None:
            os.close(os.open(image, os.O_WRONLY | os.O_CREAT, dir_fd=here))
        os.close(here)
        yield
    finally:
        subprocess.run(["rm", "-rf", str(folder / "d")], check=True)
