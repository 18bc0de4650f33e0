"""The files of a run or a model where MLflow keeps them: in a folder, behind its server, or in an object store.

A location comes from a server or a database, so it is checked before anything is read: files behind HTTP are read from
the tracking server itself only, because MLflow's client sends the user's password to the host that a location names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from kcv.common.redaction import without_credentials
from kcv.common.text import printable, shortened
from kcv.common.untrusted import inside, opened, refusing
from kcv.errors import ArtifactError
from kcv.tracking.mlflow_database import local_path

MOST_FILE_BYTES = 4 * 2**30
"""The most bytes of one file."""
MOST_FILES = 10_000
"""The most files of one folder."""

_PIECE = 2**20
_HTTP = ("http", "https", "mlflow-artifacts")
_OBJECT_STORES = ("s3", "gs", "wasbs", "dbfs")
"""Stores whose readers in MLflow connect to the provider, and not to a host that the location names."""


@dataclass(frozen=True)
class Listing:
    """What is in a folder.

    Attributes:
        files: sizes in bytes by name; None if the store does not say it.
        folders: names of folders.
    """

    files: dict[str, int | None]
    folders: frozenset[str]


class Files(Protocol):
    """The files below a location."""

    def listed(self, *folder: str) -> Listing:
        """Returns what is in a folder; nothing if there is no such folder."""

    def copy(self, target: Path, *path: str) -> None:
        """Copies a file to `target`, which is replaced.

        Raises:
            ArtifactError: it is no regular file, or larger than `MOST_FILE_BYTES`.
        """


def open_files(location: str, tracking_uri: str, *, named: str) -> Files:
    """Returns the files of a location.

    Args:
        location: where MLflow says that they are.
        tracking_uri: the URI of the store that says so.
        named: what the user named, for messages.

    Raises:
        ArtifactError: files there are not read.
    """
    path = local_path(location)
    if path is not None:
        return LocalFiles(path)
    scheme = location.partition(":")[0].lower()
    if scheme in _OBJECT_STORES or (scheme in _HTTP and _is_same_host(location, tracking_uri)):
        return RemoteFiles(location, tracking_uri)
    shown = printable(shortened(without_credentials(location)))
    raise ArtifactError(f"{named}: its files are at {shown}, which is not read from here; download them first")


def _is_same_host(location: str, tracking_uri: str) -> bool:
    """Returns whether a location is behind the tracking server itself."""
    try:
        theirs, ours = urlsplit(location), urlsplit(tracking_uri)
        if ours.scheme not in ("http", "https"):
            return False
        if theirs.scheme == "mlflow-artifacts":
            return not theirs.netloc or (theirs.hostname, theirs.port) == (ours.hostname, ours.port)
        return (theirs.scheme, theirs.hostname, theirs.port) == (ours.scheme, ours.hostname, ours.port)
    except ValueError:
        return False


class LocalFiles:
    """Files in a folder. No link in it is followed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def listed(self, *folder: str) -> Listing:
        """Returns what is in a folder; see `Files.listed`."""
        files: dict[str, int | None] = {}
        folders = set()
        try:
            with os.scandir(inside(self._root, *folder, error=ArtifactError)) as entries:
                for entry, _ in zip(entries, range(MOST_FILES), strict=False):
                    if entry.is_file(follow_symlinks=False):
                        files[entry.name] = entry.stat(follow_symlinks=False).st_size
                    elif entry.is_dir(follow_symlinks=False):
                        folders.add(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
            reason = getattr(error, "strerror", None) or error
            raise ArtifactError(f"{printable(shortened(self._root))}: cannot be read: {reason}") from None
        return Listing(files, frozenset(folders))

    def copy(self, target: Path, *path: str) -> None:
        """Copies a file; see `Files.copy`."""
        place = inside(self._root, *path, error=ArtifactError)
        left = MOST_FILE_BYTES
        with (
            refusing(place, ArtifactError, "cannot be copied"),
            opened(place, ArtifactError, "model.keras") as source,
            target.open("wb") as written,
        ):
            while piece := source.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise ArtifactError(f"{place}: is larger than {MOST_FILE_BYTES:,} bytes")
                written.write(piece)


class RemoteFiles:
    """Files that MLflow's client reads over the network. Its errors pass unchanged."""

    def __init__(self, location: str, tracking_uri: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._repository: Any = get_artifact_repository(location, tracking_uri=tracking_uri)

    def listed(self, *folder: str) -> Listing:
        """Returns what is in a folder; see `Files.listed`."""
        found = self._repository.list_artifacts("/".join(folder) or None)[:MOST_FILES]
        files = {info.path.rpartition("/")[2]: info.file_size for info in found if not info.is_dir}
        return Listing(files, frozenset(info.path.rpartition("/")[2] for info in found if info.is_dir))

    def copy(self, target: Path, *path: str) -> None:
        """Copies a file; see `Files.copy`. Its size is bounded by `kcv.tracking.mlflow`."""
        # `download_artifacts` would first ask whether it is a folder, and then fetch as many files as the answer lists.
        self._repository._download_file("/".join(path), str(target))
