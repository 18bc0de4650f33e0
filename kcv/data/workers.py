"""Waits for worker processes that read images, and ends them in any state.

They may die, be stopped, or wait for a lost disk. None of that may block a training run, or its end, forever.
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
"""Seconds without a batch after which the user is warned."""
MOST_SILENCE: Final = 900.0
"""Seconds without a batch after which waiting ends with an error."""
_ASKING: Final = 5.0  # seconds per wait in torch, so that a process suspended meanwhile loses no more than that
_ORDERLY_SECONDS: Final = 3.0  # for workers to end by themselves
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
    """Returns the iterator of a new pass; the first pass starts the workers.

    Args:
        loader: a loader with persistent workers and `MOST_SILENCE` as its timeout.

    Raises:
        DataError: the workers cannot be started, or do not answer.
    """
    kept: Any = loader._iterator
    if kept is not None:
        kept._timeout = MOST_SILENCE  # torch waits only once for all workers to confirm the new pass
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
    """Returns the next batch; warns if none arrives, and gives up after `MOST_SILENCE`.

    Raises:
        DataError: a worker died, or no worker answers.
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
    """Makes a worker ignore Ctrl-C, which the terminal sends to all processes: the current step needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_workers(batches: Any) -> None:
    """Ends workers within seconds.

    Args:
        batches: an iterator from `begin_pass`; torch has no public function for this.
    """
    orderly = threading.Thread(target=_shut_down, args=(batches,), name="kcv-end-workers", daemon=True)
    try:
        orderly.start()
    except RuntimeError:  # the interpreter is shutting down and starts no more threads
        _shut_down(batches)
        return
    orderly.join(_ORDERLY_SECONDS)
    if not orderly.is_alive():
        return
    for worker in batches._workers:
        with contextlib.suppress(OSError, ValueError):
            worker.kill()  # in a stopped process, SIGTERM would stay pending
    orderly.join(_KILLED_SECONDS)  # limited: not even the system can end a process that waits for a lost disk


def _shut_down(batches: Any) -> None:
    # At the end, a worker that was killed meanwhile or a broken queue does not matter.
    with contextlib.suppress(RuntimeError, OSError, ValueError, EOFError, AssertionError):
        batches._shutdown_workers()


def _require_room(loader: DataLoader[Any]) -> None:
    """Checks that there is shared memory for the workers' queues; otherwise torch would leave a half-made loader.

    Raises:
        DataError: there is not enough.
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
    """Raises DataError if a worker died or does not answer; the caller raises any other error."""
    if _timed_out(error):
        raise DataError(_SILENT) from error
    # A dead worker causes torch's message, or a broken connection if a tensor was in transit.
    if not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error):
        raise DataError(_LOST) from error


def worker_context(preload: str) -> BaseContext:
    """Returns the multiprocessing context for workers.

    Args:
        preload: a module that the fork server imports once for all workers.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    # The server accepts the list only before it starts.
    context.set_forkserver_preload([preload])
    with _without_working_folder():
        forkserver.ensure_running()
    return context


@contextmanager
def _without_working_folder() -> Iterator[None]:
    """Stops Python processes started in the block from importing modules of the (untrusted) working folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
