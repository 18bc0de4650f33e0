"""Stores features in files that are sealed by a checksum, filled by all processes of a machine, and pruned.

A file is an array in NumPy's format followed by a SHA-256 of the key, the shape and all bytes before it. A single read
therefore detects a file that is truncated, modified or under the wrong name.
The cache only saves time: if it cannot be written to, the features are kept for the current run only.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kcv.common.download import cache_dir
from kcv.common.files import atomic
from kcv.common.untrusted import opened
from kcv.distributed.group import Group
from kcv.errors import DataError, OutputError
from kcv.training.feature_batches import Features

_log = logging.getLogger(__name__)

MOST_BYTES = 20 * 2**30
"""Size limit for the stored features of all runs; beyond it the least recently used are removed."""

_CAN_MOVE_MAPPED = os.name != "nt"
"""Whether a file can be renamed and removed while it is mapped."""

_SEAL = hashlib.sha256().digest_size
_CHUNK = 2**20


def path_of(key: str) -> Path:
    """Returns the path of the features with a given key (SHA-256, hex)."""
    return _folder() / f"{key[:32]}.npy"


def open_kept(key: str, shape: tuple[int, int]) -> Features | None:
    """Returns stored features, memory-mapped; None if there are none or, with a log message, if they are damaged.

    Args:
        key: see `path_of`.
        shape: shape of the features.
    """
    path, head = path_of(key), _head(shape)
    if not os.path.lexists(path):
        return None
    size = len(head) + 4 * shape[0] * shape[1]
    try:
        with opened(path, DataError) as stream:
            length = os.fstat(stream.fileno()).st_size
            if length != size + _SEAL or _seal(stream, size, key, shape) != stream.read(_SEAL):
                raise DataError(f"{path}: is damaged (its checksum is wrong)")
            values: Features = np.memmap(stream, np.float32, "r", offset=len(head), shape=shape)
    except (DataError, OSError, ValueError) as error:
        _log.warning("features   %s; computed again", error)
        return None
    with contextlib.suppress(OSError):  # they may belong to another user
        path.touch()  # marks them as recently used for pruning
    return values


@contextmanager
def filled(key: str, shape: tuple[int, int], group: Group, not_kept: Callable[[str], None]) -> Iterator[Features]:
    """Gives all processes of a machine one array to fill with rows; on exit it is complete and stored.

    Args:
        key: see `path_of`.
        shape: shape of the array, float32, initially zeros.
        group: the processes.
        not_kept: called with the reason if the array lasts for this run only.

    Raises:
        OutputError: no disk has enough space for it, and neither has memory.
    """
    over = False
    try:
        with ExitStack() as held:
            place, kept, values = _begin(key, shape, held, not_kept) if group.is_main_process else (None, False, None)
            place, kept = group.broadcast((place, kept))
            if values is None:
                values = _in_memory(shape) if place is None else np.lib.format.open_memmap(place, mode="r+")
            if place is not None and not kept:
                group.barrier()  # all processes have it mapped
                if group.is_main_process:
                    place.unlink()  # its space is freed when the run ends, even if it is killed
            yield values
            over = True
            if place is None:
                for rank, others in enumerate(group.all_gather_object(values)) if group.is_distributed else ():
                    if rank != group.rank:
                        values += others  # rows of other processes are zero here
            group.barrier()
            # On exit the file gets its final name, so the others could no longer open it by the temporary one.
            if kept and place is not None and group.is_main_process:
                _close(place, key, values)
            values.setflags(write=False)
    except OutputError as error:
        if not over:
            raise
        not_kept(str(error))  # the disk filled up at the end; the mapped array remains valid


def _begin(
    key: str, shape: tuple[int, int], held: ExitStack, not_kept: Callable[[str], None]
) -> tuple[Path | None, bool, Any]:
    """Creates the array in the cache, or else in a temporary file.

    Returns:
        Its path, whether it will be stored there, and the array; None, False and None if it must be created in memory.
    """
    if not _CAN_MOVE_MAPPED:
        not_kept("Windows can neither rename nor remove a mapped file")
        return None, False, None
    path = path_of(key)
    try:
        with ExitStack() as trying:
            place = trying.enter_context(atomic(path))
            values = _mapped(place, shape)
            held.enter_context(trying.pop_all())
        return place, True, values
    except OutputError as error:
        not_kept(str(error))
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="kcv-features-", suffix=".npy")
        os.close(handle)
        try:
            return Path(name), False, _mapped(Path(name), shape)
        except BaseException:
            os.unlink(name)
            raise
    return None, False, None


def _mapped(place: Path, shape: tuple[int, int]) -> Features:
    """Maps a file as an array of zeros and allocates its disk space: running out of it later would kill the process.

    Raises:
        OSError: there is not enough space.
    """
    values: Features = np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):  # on Linux
        with place.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, place.stat().st_size)
    return values


def _in_memory(shape: tuple[int, int]) -> Features:
    try:
        return np.zeros(shape, np.float32)
    except MemoryError:
        gigabytes = 4e-9 * shape[0] * shape[1]
        raise OutputError(f"features need {gigabytes:.1f} GB on a disk or in memory; set KCV_CACHE_DIR") from None


def _close(place: Path, key: str, values: Any) -> None:
    values.flush()
    with place.open("rb+") as stream:
        seal = _seal(stream, place.stat().st_size, key, values.shape)
        stream.write(seal)


def _seal(stream: BinaryIO, size: int, key: str, shape: tuple[int, int]) -> bytes:
    """Returns the checksum of key, shape and the first `size` bytes of a file, and leaves the file positioned there."""
    digest = hashlib.sha256(f"{key} {shape[0]} {shape[1]}".encode())
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()


def _head(shape: tuple[int, int]) -> bytes:
    """Returns the header that NumPy writes before an array."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return head.getvalue()


def prune(used: Set[Path]) -> None:
    """Removes the least recently used features until the rest fit the limit, but never those of this run."""
    kept: list[tuple[float, int, Path]] = []
    with contextlib.suppress(OSError):
        for path in _folder().glob("*.npy"):
            # Another run may remove a file at the same time, and hidden files are still being written.
            with contextlib.suppress(OSError):
                if not path.name.startswith("."):
                    status = path.stat()
                    kept.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, path in kept if path in used)
        for _, size, path in sorted(kept, reverse=True):
            if path not in used:
                total += size
                if total > MOST_BYTES:
                    path.unlink(missing_ok=True)


def _folder() -> Path:
    return cache_dir() / "features"
