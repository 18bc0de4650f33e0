"""How the processes that read images start: from a fork server, with modules from where this process has its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext


def worker_context(preload: str) -> BaseContext:
    """Returns what starts processes here.

    Args:
        preload: a module that the fork server imports once, for all of them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    # It takes the list only before it starts.
    context.set_forkserver_preload([preload])
    with _without_working_folder():
        forkserver.ensure_running()
    return context


@contextmanager
def _without_working_folder() -> Iterator[None]:
    """Keeps Python processes that start meanwhile from modules of the working folder, which may be a stranger's."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
