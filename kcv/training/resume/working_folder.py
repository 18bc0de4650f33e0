"""The working folder that something began in: what is continued elsewhere finds its relative paths from there."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from pathlib import Path

from kcv.errors import UsageError


def returned_to(folder: str, named: str | Path, what: str) -> AbstractContextManager[None]:
    """Returns a context in which that folder is the working folder.

    Args:
        folder: the folder.
        named: what is continued, as the user named it.
        what: what began there, for the message.

    Raises:
        UsageError: the folder is gone.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"--resume={named}: {what} began in {folder}, which is not there.")
    return contextlib.chdir(folder)
