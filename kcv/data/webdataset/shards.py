"""WebDataset shards: tar files on this machine or behind any URL that fsspec supports."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from kcv.common.redaction import data_without_credentials, hide_credentials
from kcv.common.text import shortened
from kcv.common.untrusted import opened, refusing
from kcv.data.archives.tar_index import Forwards
from kcv.data.folder_tree.split_folders import split_of, split_within
from kcv.data.parquet.shards import require_no_password
from kcv.errors import DataError, first_line
from kcv.images.files import is_image_name

if TYPE_CHECKING:
    from kcv.data.objects.place import ObjectPlace

MOST_SHARDS: Final = 100_000
MOST_SHARD_BYTES: Final = 2**40

_RANGE: Final = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


@dataclass(frozen=True)
class TarShard:
    """One tar file.

    Attributes:
        name: its name in messages.
        place: its path within its file system.
        system: the fsspec file system; None for local files.
    """

    name: str
    place: str
    system: Any = None

    @property
    def stem(self) -> str:
        """The name of the file without `.tar`."""
        return PurePosixPath(data_without_credentials(self.place).replace("\\", "/")).stem

    @property
    def split(self) -> str | None:
        """The split that its name, or otherwise that of its folder, stands for."""
        folder = PurePosixPath(self.place.replace("\\", "/")).parent.name
        return split_of(self.stem) or split_within(self.stem) or split_of(folder)

    @property
    def size(self) -> int:
        """The size of a local file in bytes; 0 if it cannot be determined."""
        try:
            return 0 if self.system is not None else os.stat(self.place).st_size
        except OSError:  # reported when the file is opened
            return 0

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Opens the shard for one pass from its beginning.

        Raises:
            DataError: the file is missing or cannot be reached; any other error in the block becomes one, too.
        """
        with refusing(self.name, DataError, "cannot be read"):
            if self.system is None:
                with opened(Path(self.place), DataError) as stream:
                    yield stream
            else:
                with self._remote() as stream:
                    # A server that sends no parts of a file lets it be read forwards only.
                    yield stream if stream.seekable() else Forwards(stream, MOST_SHARD_BYTES, self.name)

    def _remote(self) -> Any:
        try:
            return self.system.open(self.place, "rb")
        except FileNotFoundError:
            raise DataError(f"{self.name}: no such file") from None

    def read(self, begin: int, end: int) -> bytes:
        """Returns the bytes of a part of the shard.

        Raises:
            DataError: the file is missing, cut off, or cannot be reached.
        """
        with refusing(self.name, DataError, "cannot be read"):
            if self.system is None:
                with opened(Path(self.place), DataError) as stream:
                    stream.seek(begin)
                    content = stream.read(end - begin)
            else:
                content = self.system.cat_file(self.place, start=begin, end=end)
            if len(content) != end - begin:
                raise DataError(
                    f"{self.name}: has changed since its index was read, or its server sends no parts of files."
                )
        return content


def expand(text: str) -> list[str]:
    """Returns the names that a pattern such as `shard-{000..127}.tar` stands for; any other text stands for itself.

    Raises:
        DataError: a range runs backwards, or there are too many names.
    """
    match = _RANGE.search(text)
    if match is None:
        return [text]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + MOST_SHARDS:
        raise DataError(f"{shortened(text)}: {match[0]} is no range of up to {MOST_SHARDS:,} shards.")
    width = len(match[1]) if match[1].startswith("0") else 0
    rest = expand(text[match.end() :])
    if (last - first + 1) * len(rest) > MOST_SHARDS:
        raise DataError(f"{shortened(text)}: stands for more than {MOST_SHARDS:,} shards.")
    return [f"{text[: match.start()]}{number:0{width}}{end}" for number in range(first, last + 1) for end in rest]


def first_of(path: Path) -> Path:
    """Returns the first file that a pattern stands for, without expanding it; a path without a range unchanged."""
    return Path(_RANGE.sub(lambda match: match[1], str(path)))


def is_shard_url(url: str) -> bool:
    """Returns whether a URL names tar files."""
    return data_without_credentials(url).endswith(".tar")


def local_shards(path: Path) -> list[TarShard]:
    """Lists the shards of a file, a pattern, or a folder: the tar files in it and in its folders, sorted by name."""
    if os.path.isdir(path):
        found = sorted([*_tars(path), *(file for folder in _folders(path) for file in _tars(folder))])
        return [TarShard(str(file), str(file)) for file in found]
    files = [str(path)] if os.path.exists(path) else expand(str(path))
    return [TarShard(file, file) for file in files]


def _tars(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if _is_tar(entry.name) and not entry.is_dir()]
    return []


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return []


def _is_tar(name: str) -> bool:
    return name.endswith(".tar") and not name.startswith(".")


def object_shards(place: ObjectPlace) -> list[TarShard]:
    """Lists the tar files among the objects that a URL names; none where there are images beside them."""
    from kcv.data.objects.files import ObjectFiles

    found = place.ending(".tar")
    if not found or any(is_image_name(name.rpartition("/")[2]) for name in place.shown):
        return []
    system = ObjectFiles.of(place, found)
    return [TarShard(str(place.root.below(name)), place.root.below(name).key, system) for name in found]


def remote_shards(url: str) -> list[TarShard]:
    """Lists the shards behind a URL with ranges (`{000..127}`) or, where its service lists files, wildcards.

    Raises:
        DataError: the URL contains a password, its scheme is not supported here, it cannot be reached, or there are no
            files.
    """
    import fsspec

    require_no_password(url)
    shown = data_without_credentials(url)
    urls: Sequence[str] = expand(url)
    try:
        system, place = fsspec.core.url_to_fs(urls[0])
        places = [str(system._strip_protocol(each)) for each in urls]
        if len(urls) == 1 and "*" in place:
            places = sorted(map(str, system.glob(place)))
    except ImportError as error:
        raise DataError(f"{shown}: needs a package that is not installed ({first_line(error)})") from None
    except Exception as error:  # each service raises its own errors
        reason = hide_credentials(f"{type(error).__name__}: {first_line(error)}")
        raise DataError(f"{shown}: cannot be reached ({reason})") from error
    if not places:
        raise DataError(f"{shown}: no tar files there.")
    kind = url.partition("://")[0]
    return [TarShard(_name(kind, place), place, None if kind == "file" else system) for place in places]


def _name(kind: str, place: str) -> str:
    place = data_without_credentials(place)
    return place if kind == "file" or "://" in place else f"{kind}://{place.removeprefix('/')}"
