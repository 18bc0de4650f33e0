"""What the workers of a test run share: the machine, which some tests want for themselves, and what is made once."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

try:
    import fcntl
except ImportError:  # Windows: tests run in one process there
    fcntl = None  # type: ignore[assignment]

Made = TypeVar("Made")


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Holds a place among the running tests for as long as the block runs.

    Whoever wants to be alone waits until the room is empty, and holds the door shut meanwhile: without the door, the
    others would follow each other and it would wait for ever.

    Args:
        folder: shared by the processes.
        alone: whether nothing else may run.
    """
    with ExitStack() as room:
        with locked(folder / "door"):
            room.enter_context(locked(folder / "room", shared=not alone))
        yield


def made_once(folder: Path, name: str, make: Callable[[], Made]) -> Made:
    """Returns what `make` makes: the first worker that needs it makes it, the others wait and read it.

    Args:
        folder: shared by the workers; what is made can be pickled, and its files lie there.
        name: of what is made.
        make: called once.
    """
    kept = folder / f"{name}.pickle"
    with locked(folder / f"{name}.lock"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make()))
    made: Made = pickle.loads(kept.read_bytes())
    return made


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Waits for a lock on a file, and holds it for as long as the block runs."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
