"""Worker processes that read images: waiting for them, and their end, whatever they do.

They may die, be stopped, or wait for a disk that is gone. None of that may hold a training for ever, nor its end.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, Final

from torch.utils.data import DataLoader

from kcv.errors import DataError

_log = logging.getLogger(__name__)

WORTH_A_WORD: Final = 60.0
"""Seconds without a batch after which the user is told."""
MOST_SILENCE: Final = 900.0
"""Seconds without a batch after which none is expected any more."""
_ASKING: Final = 5.0  # seconds in one of torch's own waits: so a process that was suspended meanwhile loses no more
_ORDERLY_SECONDS: Final = 3.0  # in which workers may end by themselves
_KILLED_SECONDS: Final = 1.0

_LOST = (
    "a process that reads images died: too little memory (use a smaller data.workers or data.batch_size), or a "
    "script that calls kcv without `if __name__ == '__main__':`; data.workers=0 reads in the main process"
)
_SILENT = (
    f"the processes that read images have not answered for {MOST_SILENCE / 60:.0f} minutes: look at the disk that "
    "holds the images, and whether a process was stopped"
)


def begin_pass(loader: DataLoader[Any]) -> Any:
    """Returns the iterator of a new pass; the first one starts the workers.

    Args:
        loader: with workers that stay, and `MOST_SILENCE` as its timeout.

    Raises:
        DataError: they cannot be started, or do not answer.
    """
    kept: Any = loader._iterator
    if kept is not None:
        kept._timeout = MOST_SILENCE  # torch cannot be asked again whether they have all heard of the new pass
    else:
        _require_room(loader)
    try:
        batches: Any = iter(loader)
    except OSError as error:
        raise _no_room(error) from error
    except (RuntimeError, EOFError) as error:
        _tell(error)
        raise
    batches._timeout = _ASKING
    return batches


def next_batch(batches: Iterator[Any]) -> Any:
    """Returns the next batch; while none comes, says so, and gives up after `MOST_SILENCE`.

    Raises:
        DataError: a worker died, or none answers.
    """
    silence = 0.0
    while True:
        try:
            return next(batches)
        except (RuntimeError, OSError, EOFError) as error:
            silence += _ASKING
            if not _timed_out(error) or silence >= MOST_SILENCE:
                _tell(error)
                raise
            if silence == WORTH_A_WORD:
                why = "a slow or lost disk, or a process that was stopped"
                _log.warning("no image has come for %.0f s: %s; the training waits", silence, why)


def leave_signals_to_parent(number: int) -> None:
    """Lets a worker (by its number) live on at Ctrl-C, which the terminal sends to all: the step needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_workers(batches: Any) -> None:
    """Ends workers within seconds.

    Args:
        batches: an iterator of `begin_pass`; torch has no public call.
    """
    orderly = threading.Thread(target=_shut_down, args=(batches,), name="kcv-end-workers", daemon=True)
    try:
        orderly.start()
    except RuntimeError:  # Python itself ends, and starts no threads any more
        _shut_down(batches)
        return
    orderly.join(_ORDERLY_SECONDS)
    if not orderly.is_alive():
        return
    for worker in batches._workers:
        with contextlib.suppress(OSError, ValueError):
            worker.kill()  # SIGTERM would wait in a process that is stopped
    orderly.join(_KILLED_SECONDS)  # what waits for a lost disk not even the system can end now


def _shut_down(batches: Any) -> None:
    # A worker that was killed meanwhile, or a queue that broke, is no reason to complain at the end.
    with contextlib.suppress(RuntimeError, OSError, ValueError, EOFError, AssertionError):
        batches._shutdown_workers()


def _require_room(loader: DataLoader[Any]) -> None:
    """Tries whether there is shared memory for what the workers talk with: torch would complain of a half-made loader.

    Raises:
        DataError: there is not.
    """
    context = loader.multiprocessing_context
    try:
        tried = [context.Event(), *(context.Queue() for _ in range(loader.num_workers + 1))]
    except OSError as error:
        raise _no_room(error) from error
    for queue in tried[1:]:
        queue.close()


def _no_room(error: OSError) -> DataError:
    return DataError(
        f"no process that reads images can be started ({error.strerror or error}): use data.workers=0, which reads "
        "in the main process, or give the container more shared memory (docker run --shm-size=1g)"
    )


def _timed_out(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "DataLoader timed out" in str(error)


def _tell(error: Exception) -> None:
    """Raises DataError for a worker that died or is silent; what else went wrong is for the caller to raise."""
    if _timed_out(error):
        raise DataError(_SILENT) from error
    # A death shows as torch's message, or as a broken connection where a tensor was on its way.
    if not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error):
        raise DataError(_LOST) from error


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
