"""The zip archive of a model file: checks its members and reads them in bounded memory and time."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from kcv.common.text import printable
from kcv.common.untrusted import opened, refusing
from kcv.errors import ArtifactError

WEIGHTS_MEMBER = "model.weights.h5"
CONFIG_MEMBER = "config.json"
METADATA_MEMBER = "metadata.json"
INFO_MEMBER = "kcv.json"
_MEMBERS = frozenset({METADATA_MEMBER, CONFIG_MEMBER, WEIGHTS_MEMBER, INFO_MEMBER})
_ASSETS = "assets/"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Allowed compression methods. Others allocate memory of their own: LZMA uses a dictionary of up to 4 GB."""

MOST_RATIO = 20
"""The largest ratio of unpacked to packed size, for large members; weights hardly compress."""
SLACK = 2**20
"""Bytes that are allowed in addition to the ratio: JSON and small weights compress well."""

_MOST_BYTES = 16 * 2**30
_MOST_DIRECTORY = 2**20
_MOST_MEMBERS = 1000
_PIECE = 2**20
_ENCRYPTED = 1


class Archive:
    """An open model file whose directory has been checked.

    Attributes:
        path: path of the file.
        bytes: size of the file.
    """

    def __init__(self, path: Path, size: int, members: dict[str, zipfile.ZipInfo], file: zipfile.ZipFile) -> None:
        self.path = path
        self.bytes = size
        self._members = members
        self._file = file

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def members(self) -> list[zipfile.ZipInfo]:
        """The members in file order."""
        return list(self._members.values())

    def require(self, name: str) -> None:
        """Raises ArtifactError if there is no such member."""
        if name not in self._members:
            hint = "it was not written by kcv" if name == INFO_MEMBER else "it is not a Keras model"
            raise ArtifactError(f"{self.path}: has no {name}: {hint}")

    def read(self, name: str, most: int = _MOST_BYTES) -> bytes:
        """Reads a whole member.

        Args:
            name: name of the member.
            most: largest allowed size, in bytes.

        Raises:
            ArtifactError: the member is missing, too large, or damaged.
        """
        self.require(name)
        if self._members[name].file_size > most:
            raise ArtifactError(f"{self.path}: its {name} is larger than {most:,} bytes")
        content = io.BytesIO()
        for piece in self.pieces(name):
            content.write(piece)
        return content.getvalue()

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yields a member in pieces. Read in one call, it could unpack to more than its declared size.

        Raises:
            ArtifactError: the member is damaged.
        """
        with refusing(self.path, ArtifactError, f"its {name} is damaged"), self._file.open(name) as stream:
            while piece := stream.read(_PIECE):
                yield piece


def _is_member(name: str) -> bool:
    return name in _MEMBERS or (name.startswith(_ASSETS) and ".." not in name.split("/"))


@contextmanager
def open_archive(
    path: Path, *, is_member: Callable[[str], bool] = _is_member, most: int = _MOST_MEMBERS
) -> Iterator[Archive]:
    """Opens a model file and checks its directory; reads no member.

    Args:
        path: the file.
        is_member: returns whether such files have a member of this name.
        most: the largest number of members.

    Raises:
        ArtifactError: the file is missing, unreadable or not an archive; or a member is unknown, duplicate, encrypted,
            compressed with a method other than deflate, or would unpack to far more than its packed size.
    """
    with opened(path, ArtifactError, "model.keras") as stream:
        if path.suffix.lower() == ".onnx":
            raise ArtifactError(f"{path}: is an ONNX file, which predict and info take; here the .keras file is needed")
        size = os.fstat(stream.fileno()).st_size
        bounded = _DirectoryFirst(stream)
        with refusing(path, ArtifactError, "not a model file, or a damaged one"):
            file = zipfile.ZipFile(cast("IO[bytes]", bounded))
        bounded.most = None
        with file:
            members = file.infolist()
            if len(members) > most:
                raise ArtifactError(f"{path}: holds {len(members):,} members, which no model file does")
            yield Archive(path, size, _checked(members, size, str(path), is_member), file)


def _checked(
    found: list[zipfile.ZipInfo], size: int, origin: str, is_member: Callable[[str], bool]
) -> dict[str, zipfile.ZipInfo]:
    """Returns the members by name, after checking them against the file's size in bytes."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in found:
        name = member.filename
        shown = repr(printable(name[:100]))
        if not is_member(name):
            raise ArtifactError(f"{origin}: holds {shown}, which no model file has")
        if name in members:
            raise ArtifactError(f"{origin}: holds {shown} twice")
        if member.flag_bits & _ENCRYPTED:
            raise ArtifactError(f"{origin}: its {shown} is encrypted")
        if member.compress_type not in _METHODS:
            raise ArtifactError(f"{origin}: its {shown} is packed by a method that model files do not use")
        if member.file_size > min(_MOST_BYTES, SLACK + MOST_RATIO * member.compress_size):
            raise ArtifactError(f"{origin}: its {shown} would unpack to {member.file_size:,} bytes")
        if member.header_offset + member.compress_size > size:
            raise ArtifactError(f"{origin}: its directory is damaged: {shown} would lie behind its end")
        members[name] = member
    return members


class _DirectoryFirst:
    """Bounds the read of the directory, which zipfile reads in one piece and turns into one object per entry.

    Attributes:
        most: largest size of one read, in bytes; None: no limit.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.most: int | None = _MOST_DIRECTORY

    def read(self, size: int = -1) -> bytes:
        """Reads a piece; raises ValueError if it is larger than `most`."""
        if self.most is None:
            return self._stream.read(size)
        content = self._stream.read(self.most + 1 if size < 0 else min(size, self.most + 1))
        if len(content) > self.most:
            raise ValueError(f"its directory is larger than {self.most:,} bytes")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
