"""Where the path of a data source leads, from here or from where a run began."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kcv.common.files import expand_user
from kcv.common.text import shortened
from kcv.errors import DataError, nearest


def place_of(name: str, known: Sequence[str], began_in: Path | None = None) -> Path:
    """Returns the file or folder that a source is named by.

    Args:
        name: a path. A relative one is looked for where a run began, in the working folder, and under KCV_DATA_DIR.
        known: sources that have a name of their own, for a suggestion.
        began_in: the working folder of the run that the name comes from, empty where it is not known; None where the
            user has named the source.

    Raises:
        DataError: nothing is there; the message says where it was looked for.
    """
    path = expand_user(name)
    root = os.environ.get("KCV_DATA_DIR")
    folders = [began_in, Path(), *([expand_user(root)] if root else [])]
    for place in (folder / path for folder in folders if folder is not None):
        if os.path.exists(place):  # unlike a Path's, it is False for a name that no file can have
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
