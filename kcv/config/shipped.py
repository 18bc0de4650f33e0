"""The configurations that come with kcv, for those who have installed it without its source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_FOLDER: Final = "configs"


def shipped(path: Path) -> Path | None:
    """Returns the file that `configs/NAME.yaml` stands for where the working folder has none; None if there is none.

    Example:
        >>> shipped(Path("configs/quickstart.yaml")).name
        'quickstart.yaml'
    """
    if path.parts[:-1] != (_FOLDER,):
        return None
    folder = _PACKAGE / _FOLDER
    if not folder.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        folder = _PACKAGE.parent / _FOLDER  # a checkout
    found = folder / path.name
    return found if os.path.isfile(found) else None
