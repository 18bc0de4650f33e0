"""Resolves the path of a data source, from here or from the folder in which a run was started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kcv.common.files import expand_user
from kcv.common.text import shortened
from kcv.data.webdataset.shards import first_of
from kcv.errors import DataError, nearest


def place_of(name: str, known: Sequence[str], began_in: Path | None = None) -> Path:
    """Returns the file or folder that a source name stands for.

    Args:
        name: a path, or a pattern of shards. A relative path is searched in `began_in`, in the working folder, and
            under KCV_DATA_DIR.
        known: the names of named sources, for a suggestion.
        began_in: the working folder of the run that the name comes from, empty if it is unknown; None if the user named
            the source.

    Raises:
        DataError: nothing was found; the message names the places searched.
    """
    path = expand_user(name)
    root = os.environ.get("KCV_DATA_DIR")
    folders = [began_in, Path(), *([expand_user(root)] if root else [])]
    for place in (folder / path for folder in folders if folder is not None):
        # Unlike Path.exists, os.path.exists is False for invalid file names.
        if os.path.exists(place) or os.path.exists(first_of(place)):
            return place
    if began_in is None:
        raise DataError(
            f"data source {shortened(name)!r} is neither {', '.join(known[:-1])}, {known[-1]} nor an existing path."
            f"{nearest(name, known) if len(name) < 100 else ''}"
        )
    if path.is_absolute():
        where = ""
    elif began_in.is_absolute() and began_in != Path.cwd():
        where = f", neither in {began_in}, where the run began, nor in {Path.cwd()}"
    else:
        where = f" in {Path.cwd()}"
    raise DataError(
        f"the data of the run, {shortened(name)!r}, is not there{where}; --data=PATH names it where it is now."
    )
