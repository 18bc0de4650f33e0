"""Kept features as files: sealed by a checksum, filled by all processes of a machine, and tidied up.

A file is an array as NumPy writes it, and behind it the SHA-256 of what the features are of and of all bytes before.
So a file that is cut, changed, or under the wrong name is told from a sound one by reading it once.
The cache only saves time: where it cannot be written to, features live as long as the run.
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
"""What the kept features of all runs may take together; beyond it the ones not used for longest go."""

_SEAL = hashlib.sha256().digest_size
_CHUNK = 2**20


def path_of(key: str) -> Path:
    """Returns the file of the features that a key (SHA-256, hex) stands for."""
    return _folder() / f"{key[:32]}.npy"


def open_kept(key: str, shape: tuple[int, int]) -> Features | None:
    """Returns kept features, mapped into memory; None where there are none, or, with a line, where they are damaged.

    Args:
        key: see `path_of`.
        shape: of the features.
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
        _log.warning("features   %s; computed anew", error)
        return None
    with contextlib.suppress(OSError):  # they may be somebody else's
        path.touch()  # so that pruning knows what is in use
    return values


@contextmanager
def filled(key: str, shape: tuple[int, int], group: Group, not_kept: Callable[[str], None]) -> Iterator[Features]:
    """Gives all processes of a machine one array to fill with rows; it is whole, and kept, when they leave the block.

    Args:
        key: see `path_of`.
        shape: of the array, float32, zeros at first.
        group: the processes.
        not_kept: called with the reason where the array serves this run alone.

    Raises:
        OutputError: there is no room for it on any disk, nor in memory.
    """
    over = False
    try:
        with ExitStack() as held:
            place, kept, values = _begin(key, shape, held, not_kept) if group.is_main_process else (None, False, None)
            place, kept = group.broadcast((place, kept))
            if values is None:
                values = _in_memory(shape) if place is None else np.lib.format.open_memmap(place, mode="r+")
            if place is not None and not kept:
                group.barrier()  # all have it mapped
                if group.is_main_process:
                    place.unlink()  # its room is given back when the run ends, however it ends
            yield values
            over = True
            if place is None:
                for rank, others in enumerate(group.all_gather_object(values)) if group.is_distributed else ():
                    if rank != group.rank:
                        values += others  # where this process has no rows, there are zeros
            group.barrier()
            # It then names the file, which is gone for the others.
            if kept and place is not None and group.is_main_process:
                _close(place, key, values)
            values.setflags(write=False)
    except OutputError as error:
        if not over:
            raise
        not_kept(str(error))  # the disk filled up in the end; what is mapped stays


def _begin(
    key: str, shape: tuple[int, int], held: ExitStack, not_kept: Callable[[str], None]
) -> tuple[Path | None, bool, Any]:
    """Makes the array in the cache, else in a temporary file.

    Returns:
        Its place, whether it is kept there, and the array; None, False and None where it must be made in memory.
    """
    path = path_of(key)
    try:
        with ExitStack() as trying:
            place = trying.enter_context(atomic(path))
            values = _mapped(place, shape)
            held.enter_context(trying.pop_all())
        return place, True, values
    except OutputError as error:
        not_kept(str(error))
    if os.name != "nt":  # where a mapped file cannot be removed
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
    """Returns a file as an array of zeros, with the disk space for it: were it to run out later, the process would die.

    Raises:
        OSError: there is not that much.
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
    """Returns the checksum of key, shape and the first `size` bytes of a file, and leaves the file at their end."""
    digest = hashlib.sha256(f"{key} {shape[0]} {shape[1]}".encode())
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()


def _head(shape: tuple[int, int]) -> bytes:
    """Returns what NumPy writes before an array."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return head.getvalue()


def prune(used: Set[Path]) -> None:
    """Removes the features that were not used for longest, until all together fit; never those of this run."""
    kept: list[tuple[float, int, Path]] = []
    with contextlib.suppress(OSError):
        for path in _folder().glob("*.npy"):
            # Another run may take a file away, and hidden ones are just being written.
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
