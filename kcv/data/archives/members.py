"""The members of an archive: their names, checked, and the bytes of those that are images."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from kcv.common.text import shortened
from kcv.common.untrusted import opened, refusing
from kcv.data.file_names import FileNames
from kcv.data.order import Indices
from kcv.errors import DataError, ImageError

MOST_MEMBERS: Final = 5_000_000
MOST_NAME_BYTES: Final = 4_096
MOST_IMAGE_BYTES: Final = 2**27
"""The maximum size of one unpacked image."""

STORED, DEFLATED = 0, 8
"""How a member is packed, as numbered in .zip."""

_LOCAL_HEADER: Final = 30  # bytes, before the name of a member of a .zip
_DRIVE: Final = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path, as `member_name` returns it.
        offset: where its bytes begin; in .zip, where its local header does.
        packed: the number of its bytes in the archive.
        size: the number of its bytes.
        method: `STORED` or `DEFLATED`.
        checksum: its CRC-32; None where the format has none.
    """

    name: str
    offset: int
    packed: int
    size: int
    method: int = STORED
    checksum: int | None = None


def member_name(raw: bytes | str, archive: str) -> str:
    """Returns the path of a member with `/`, without a leading or doubled one of `.`.

    Raises:
        DataError: the name is absolute, leads out of the archive, or is too long.
    """
    name = os.fsdecode(raw).replace("\\", "/")
    if len(raw) > MOST_NAME_BYTES:
        raise DataError(f"{archive}: holds a name of {len(raw):,} bytes; {MOST_NAME_BYTES:,} are allowed.")
    parts = name.split("/")
    if name.startswith("/") or _DRIVE.match(name) or ".." in parts or "\0" in name:
        raise DataError(f"{archive}: {shortened(name)!r} in it leads out of the archive, which is refused.")
    return "/".join(part for part in parts if part not in ("", "."))


class MemberImages(Sequence[bytes]):
    """Images in an archive, each read when it is requested; usable from several threads and processes.

    Args:
        path: the archive.
        names: the name of each image.
        table: int64 [n, 5]: offset, packed size, size, method and checksum (-1: none) of each image.

    Attributes:
        sizes: int64 [n], the number of bytes of each image.
    """

    def __init__(self, path: Path, names: FileNames, table: NDArray[np.int64]) -> None:
        self._path = path
        self._names = names
        self._table = table

    @classmethod
    def of(cls, path: Path, names: FileNames, members: dict[str, Member]) -> MemberImages:
        """Returns the images of the given names, which are all among `members`."""
        table = np.empty((len(names), 5), np.int64)
        for row, name in enumerate(names):
            one = members[name]
            checksum = -1 if one.checksum is None else one.checksum
            table[row] = one.offset, one.packed, one.size, one.method, checksum
        return cls(path, names, table)

    @classmethod
    def join(cls, parts: Sequence[MemberImages]) -> MemberImages:
        """Returns the images of several sequences from the same archive as one."""
        names = FileNames.of(name for part in parts for name in part._names)
        return cls(parts[0]._path, names, np.concatenate([part._table for part in parts]))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of bytes of each image, int64 [n]."""
        return self._table[:, 2]

    @property
    def changed(self) -> int:
        """When the archive was last changed, in nanoseconds."""
        return os.stat(self._path).st_mtime_ns

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> MemberImages: ...
    def __getitem__(self, index: int | slice) -> bytes | MemberImages:
        """Returns the bytes of an image; raises ImageError if they cannot be read."""
        if isinstance(index, slice):
            return MemberImages(self._path, self._names[index], self._table[index])
        offset, packed, size, method, checksum = self._table[index].tolist()
        where = f"{self._names[index]} in {self._path}"
        with opened(self._path, ImageError) as stream, refusing(where, ImageError):
            stream.seek(offset)
            if checksum >= 0:  # a member of a .zip
                header = stream.read(_LOCAL_HEADER)
                if header[:4] != b"PK\3\4":
                    raise ValueError("there is no member where it should be")
                stream.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
            content = stream.read(packed)
            if method == DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            if len(content) != size or (checksum >= 0 and zlib.crc32(content) != checksum):
                raise ValueError("its bytes are not those that the archive promises")
        return content

    def take(self, indices: Indices) -> MemberImages:
        """Returns the images at `indices`."""
        return MemberImages(self._path, self._names.take(indices), self._table[indices])
