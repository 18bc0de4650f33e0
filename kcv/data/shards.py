"""Parquet files, here or behind any URL that fsspec knows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kcv.errors import DataError, first_line
from kcv.redaction import data_without_credentials, hide_credentials

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_PATTERNS = ("*.parquet", "*/*.parquet")


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    Attributes:
        name: what messages call it.
        place: its path within its file system.
        system: fsspec's; None for files of this machine.
    """

    name: str
    place: str
    system: Any = None

    @property
    def names(self) -> tuple[str, str]:
        """Names of the file and of the folder that holds it."""
        path = PurePosixPath(data_without_credentials(self.place).replace("\\", "/"))
        return path.name, path.parent.name

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return self.system is None

    def open(self) -> pq.ParquetFile:
        """Opens it; only what is read of it is fetched.

        Raises:
            DataError: it is missing, cannot be reached, or is no Parquet.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.local and not os.path.isfile(self.place):  # a pipe would block
            raise DataError(f"{self.name}: is no regular file.")
        try:
            return pq.ParquetFile(self.place if self.local else self.system.open(self.place, "rb"))
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.name, error) from error
        except Exception as error:  # each service raises its own
            if self.local:
                raise
            raise unreadable(self.name, error) from error


def unreadable(name: str, error: Exception) -> DataError:
    """Returns the error for a file that cannot be read as Parquet."""
    reason = hide_credentials(" ".join(str(error).split())) or type(error).__name__
    return DataError(f"{name}: cannot be read as Parquet ({reason}).")


def is_url(name: str) -> bool:
    """Whether a source is named by a URL."""
    return "://" in name


def local_shards(path: Path) -> list[Shard]:
    """Lists a Parquet file, or those in a folder and one level below it, by name."""
    if not os.path.isdir(path):
        return [Shard(str(path), str(path))]
    found = [file for pattern in _PATTERNS for file in path.glob(pattern)]
    return [Shard(str(file), str(file)) for file in sorted(found) if _visible(file)]


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
        single = data_without_credentials(place).endswith(".parquet")
        wanted = [place] if single else [f"{place.rstrip('/')}/{pattern}" for pattern in _PATTERNS]
        places = sorted(str(found) for pattern in wanted for found in system.glob(pattern))
    except ImportError as error:
        raise DataError(f"{shown}: needs a package that is not installed ({first_line(error)})") from None
    except Exception as error:  # each service raises its own
        reason = hide_credentials(f"{type(error).__name__}: {first_line(error)}")
        raise DataError(f"{shown}: cannot be reached ({reason}){_way_on(url)}") from error
    if not places:
        raise DataError(f"{shown}: no Parquet files there{_way_on(url) or '.'}")
    kind = url.partition("://")[0]
    return [Shard(_name(kind, place), place, system) for place in places if _visible(PurePosixPath(place))]


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


def _visible(file: PurePosixPath | Path) -> bool:
    return not file.name.startswith(".") and not file.parent.name.startswith(".")
