"""Parquet files, local or behind any URL that fsspec supports."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from kcv.common.redaction import data_without_credentials, hide_credentials
from kcv.common.text import shortened
from kcv.common.untrusted import opened, refusing
from kcv.data.parquet.footer import footer
from kcv.errors import DataError, first_line
from kcv.images.files import is_folder

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from kcv.data.objects.place import ObjectPlace

MOST_FOOTER_BYTES = 2**24
"""The maximum size of a Parquet footer; in memory, it takes about ten times as much."""

SPLIT_PREFIXES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_PATTERNS = ("*.parquet", "*/*.parquet")
_DEEP_PATTERNS = tuple(f"*/{split}/*.parquet" for split in SPLIT_PREFIXES)
_SPLIT = re.compile(r"(train|validation|valid|val|test)(?![A-Za-z])")


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    Attributes:
        name: its name in messages.
        place: its path within its file system.
        system: the fsspec file system; None for local files.
        below: the folders between the named folder and the file.
    """

    name: str
    place: str
    system: Any = None
    below: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, str]:
        """Names of the file and of its folder."""
        path = PurePosixPath(data_without_credentials(self.place).replace("\\", "/"))
        return path.name, path.parent.name

    @property
    def local(self) -> bool:
        """Whether the file is on this machine."""
        return self.system is None

    @property
    def path(self) -> Path:
        """The path of a local file."""
        return Path(self.place)

    @property
    def size(self) -> int:
        """The size of a local file in bytes; 0 if it cannot be determined."""
        try:
            return os.stat(self.place).st_size
        except OSError:  # reported when the file is opened
            return 0

    @property
    def split(self) -> str | None:
        """The split that its name, or otherwise that of its folder, begins with."""
        for text in [self.names[0], *self.below[-1:]]:
            if match := _SPLIT.match(text):
                return SPLIT_PREFIXES[match.group(1)]
        return None

    @property
    def configuration(self) -> str:
        """The folders that contain it, without a folder named like a split; usually one data set."""
        below = self.below[:-1] if self.below and _SPLIT.match(self.below[-1]) else self.below
        return "/".join(below)

    def open(
        self, *, again: pq.ParquetFile | None = None, by_dictionary: str | None = None, piecewise: bool = False
    ) -> pq.ParquetFile:
        """Opens the file; only the parts that are read are fetched.

        Args:
            again: the same file, opened before, whose footer is used instead of reading it again.
            by_dictionary: the path of a column to read as distinct values and an index per row.
            piecewise: whether to fetch row groups in small pieces, if only their beginnings are needed.

        Raises:
            DataError: the file is missing, cannot be reached, is not a Parquet file, or its footer is too large.
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
    """Lists a Parquet file, or those in a folder and one level below it, sorted by name.

    If there are none, lists those two levels below it in folders named like splits: `default/train/0000.parquet`.
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
    except OSError:  # reported by the reader of folders, if there is nothing else
        return []


def _parquet(entries: Sequence[os.DirEntry[str]]) -> Iterator[Path]:
    return (Path(entry.path) for entry in entries if entry.name.endswith(".parquet") and not is_folder(entry))


def object_shards(place: ObjectPlace) -> list[Shard]:
    """Lists the Parquet files among the objects that a URL names, as `local_shards` does those in a folder."""
    from kcv.data.objects.files import ObjectFiles

    found = place.ending(".parquet") or [
        name for name in place.ending(".parquet", most_depth=2) if name.split("/")[1] in SPLIT_PREFIXES
    ]
    system = ObjectFiles.of(place, found)
    return [Shard(str(place.root.below(n)), place.root.below(n).key, system, tuple(n.split("/")[:-1])) for n in found]


def remote_shards(url: str) -> list[Shard]:
    """Lists the Parquet file, folder or pattern behind a URL such as s3://bucket/folder or hf://datasets/owner/name.

    Raises:
        DataError: the URL contains a password, its scheme is not supported here, it cannot be reached, or there are no
            files.
    """
    import fsspec

    require_no_password(url)
    shown = shortened(data_without_credentials(url))
    try:
        system, place = fsspec.core.url_to_fs(url)
        if data_without_credentials(place).endswith(".parquet"):
            places = sorted(map(str, system.glob(place)))
        else:
            folder = place.rstrip("/")
            places = _glob(system, folder, _PATTERNS) or _glob(system, folder, _DEEP_PATTERNS)
    except ImportError as error:
        raise DataError(f"{shown}: needs a package that is not installed ({first_line(error)})") from None
    except Exception as error:  # each service raises its own errors
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


def require_no_password(url: str) -> None:
    """Raises DataError if a URL contains a password, because it would be stored."""
    host = url.partition("://")[2].partition("/")[0]
    if "@" in host and ":" in host.partition("@")[0]:
        raise DataError("the URL of the data holds a password; give it to the service's own configuration instead")


def _name(kind: str, place: str) -> str:
    if kind == "file":
        return place
    place = data_without_credentials(place)
    return place if "://" in place else f"{kind}://{place.removeprefix('/')}"


def _way_on(url: str) -> str:
    """Returns a hint about what may be missing from a URL that was read back from a run."""
    if url.startswith("http") and data_without_credentials(url) == url:
        return "; if the URL had a user or a query, such as a token, it was not kept: name it whole again (--data=URL)"
    return ""


def _glob(system: Any, root: str, patterns: Sequence[str]) -> list[str]:
    return sorted(str(found) for pattern in patterns for found in system.glob(f"{root}/{pattern}"))


def _below(found: str, asked: str) -> tuple[str, ...]:
    """Returns the folders of a file below the requested place: a folder, the file itself, or a pattern."""
    folders = PurePosixPath(found).parts[:-1]
    if found == asked:
        return ()
    if data_without_credentials(asked).endswith(".parquet"):
        return folders[-1:]
    return folders[len(PurePosixPath(asked).parts) :]


def _visible(file: PurePosixPath) -> bool:
    return not file.name.startswith(".") and not file.parent.name.startswith(".")
