"""Parquet files, here or behind any URL that fsspec knows."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from kcv.common.redaction import data_without_credentials, hide_credentials
from kcv.common.untrusted import opened, refusing
from kcv.data.parquet.footer import footer
from kcv.errors import DataError, first_line
from kcv.images.folders import is_folder

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MOST_FOOTER_BYTES = 2**24
"""Of what a Parquet file says about itself; it grows some ten times when it is read."""

SPLIT_PREFIXES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_PATTERNS = ("*.parquet", "*/*.parquet")
_DEEP_PATTERNS = tuple(f"*/{split}/*.parquet" for split in SPLIT_PREFIXES)
_SPLIT = re.compile(r"(train|validation|valid|val|test)(?![A-Za-z])")


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    Attributes:
        name: what messages call it.
        place: its path within its file system.
        system: fsspec's; None for files of this machine.
        below: its folders below the one that was named.
    """

    name: str
    place: str
    system: Any = None
    below: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, str]:
        """Names of the file and of the folder that holds it."""
        path = PurePosixPath(data_without_credentials(self.place).replace("\\", "/"))
        return path.name, path.parent.name

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return self.system is None

    @property
    def path(self) -> Path:
        """Where it lies on this machine."""
        return Path(self.place)

    @property
    def size(self) -> int:
        """Its bytes, where it lies on this machine; 0 where they cannot be told."""
        try:
            return os.stat(self.place).st_size
        except OSError:  # told when it is opened
            return 0

    @property
    def split(self) -> str | None:
        """The split that its name, or else that of its folder, begins with."""
        for text in [self.names[0], *self.below[-1:]]:
            if match := _SPLIT.match(text):
                return SPLIT_PREFIXES[match.group(1)]
        return None

    @property
    def configuration(self) -> str:
        """The folders that it lies in, but for one that is called as a split: one set of images, as a rule."""
        below = self.below[:-1] if self.below and _SPLIT.match(self.below[-1]) else self.below
        return "/".join(below)

    def open(
        self, *, again: pq.ParquetFile | None = None, by_dictionary: str | None = None, piecewise: bool = False
    ) -> pq.ParquetFile:
        """Opens it; only what is read of it is fetched.

        Args:
            again: the same, opened before: its footer is not read a second time.
            by_dictionary: the path of a column whose distinct values are wanted, and which of them each row has.
            piecewise: whether row groups are fetched bit by bit, where only their beginnings are wanted.

        Raises:
            DataError: it is missing, cannot be reached, is no Parquet, or its footer is beyond all bounds.
        """
        import pyarrow.parquet as pq

        if self.local and not os.path.isfile(self.place):  # a pipe would block
            raise DataError(f"{self.name}: is no regular file.")
        with refusing(self.name, DataError, "cannot be read as Parquet"):
            source: Any = self.place if self.local else self.system.open(self.place, "rb")
            if again is not None:
                metadata = again.metadata
            elif self.local:
                with opened(self.path, DataError) as stream:
                    metadata = _metadata(stream)
            else:
                metadata = _metadata(source)
            return pq.ParquetFile(
                source,
                metadata=metadata,
                read_dictionary=[by_dictionary] if by_dictionary else None,
                buffer_size=2**20 if piecewise else 0,
                pre_buffer=not piecewise,
                thrift_string_size_limit=MOST_FOOTER_BYTES,
            )


def _metadata(stream: BinaryIO) -> pq.FileMetaData:
    import pyarrow.parquet as pq

    size = stream.seek(0, os.SEEK_END)
    content = footer(stream, size, MOST_FOOTER_BYTES)
    stream.seek(0)
    return pq.ParquetFile(io.BytesIO(content), thrift_string_size_limit=MOST_FOOTER_BYTES).metadata


def local_shards(path: Path) -> list[Shard]:
    """Lists a Parquet file, or those in a folder and one level below it, by name.

    Where there are none, those two levels below it, in folders called as splits: `default/train/0000.parquet`.
    """
    if not os.path.isdir(path):
        return [Shard(str(path), str(path))]
    near: list[Path] = []
    deep: list[Path] = []
    for entry in _entries(path):
        if not is_folder(entry):
            near += _parquet([entry])
            continue
        below = _entries(entry.path)
        near += _parquet(below)
        for folder in below:
            if not near and folder.name in SPLIT_PREFIXES and is_folder(folder):
                deep += _parquet(_entries(folder.path))
    return [Shard(str(file), str(file), None, file.relative_to(path).parts[:-1]) for file in sorted(near or deep)]


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:  # told by the reader of folders, if there is nothing else
        return []


def _parquet(entries: Sequence[os.DirEntry[str]]) -> Iterator[Path]:
    return (Path(entry.path) for entry in entries if entry.name.endswith(".parquet") and not is_folder(entry))


def remote_shards(url: str) -> list[Shard]:
    """Lists the Parquet file, folder or pattern behind a URL such as s3://bucket/folder or hf://datasets/owner/name.

    Raises:
        DataError: the URL holds a password, nobody here knows its kind, it cannot be reached, or there is nothing.
    """
    import fsspec

    host = url.partition("://")[2].partition("/")[0]
    if "@" in host and ":" in host.partition("@")[0]:
        raise DataError("the URL of the data holds a password; give it to the service's own configuration instead")
    shown = data_without_credentials(url)
    try:
        system, place = fsspec.core.url_to_fs(url)
        if data_without_credentials(place).endswith(".parquet"):
            places = sorted(map(str, system.glob(place)))
        else:
            folder = place.rstrip("/")
            places = _glob(system, folder, _PATTERNS) or _glob(system, folder, _DEEP_PATTERNS)
    except ImportError as error:
        raise DataError(f"{shown}: needs a package that is not installed ({first_line(error)})") from None
    except Exception as error:  # each service raises its own
        reason = hide_credentials(f"{type(error).__name__}: {first_line(error)}")
        raise DataError(f"{shown}: cannot be reached ({reason}){_way_on(url)}") from error
    if not places:
        raise DataError(f"{shown}: no Parquet files there{_way_on(url) or '.'}")
    kind = url.partition("://")[0]
    return [
        Shard(_name(kind, found), found, system, _below(found, place))
        for found in places
        if _visible(PurePosixPath(found))
    ]


def _name(kind: str, place: str) -> str:
    if kind == "file":
        return place
    place = data_without_credentials(place)
    return place if "://" in place else f"{kind}://{place.removeprefix('/')}"


def _way_on(url: str) -> str:
    """Returns what may be missing from a URL that was read back from a run."""
    if url.startswith("http") and data_without_credentials(url) == url:
        return "; if the URL had a user or a query, such as a token, it was not kept: name it whole again (--data=URL)"
    return ""


def _glob(system: Any, root: str, patterns: Sequence[str]) -> list[str]:
    return sorted(str(found) for pattern in patterns for found in system.glob(f"{root}/{pattern}"))


def _below(found: str, asked: str) -> tuple[str, ...]:
    """Returns the folders of a file below what was asked for: a folder, the file itself, or a pattern."""
    folders = PurePosixPath(found).parts[:-1]
    if found == asked:
        return ()
    if data_without_credentials(asked).endswith(".parquet"):
        return folders[-1:]
    return folders[len(PurePosixPath(asked).parts) :]


def _visible(file: PurePosixPath) -> bool:
    return not file.name.startswith(".") and not file.parent.name.startswith(".")
