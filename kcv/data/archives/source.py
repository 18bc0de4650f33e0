"""Opens an archive of class folders as a source; nothing is unpacked to disk."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kcv.common.text import shortened
from kcv.common.untrusted import opened, refusing
from kcv.data.archives import tar_index, zip_index
from kcv.data.archives.members import MOST_IMAGE_BYTES, Member, MemberImages
from kcv.data.dataset import Source
from kcv.data.folder_tree.source import read_tree
from kcv.data.folder_tree.split_folders import MOST_WRAPPED, split_of
from kcv.data.folder_tree.tree import tree_of
from kcv.errors import DataError
from kcv.images.files import is_clutter, is_image_name

ZIPS: Final = (".zip",)
TARS: Final = (".tar",)
PACKED_TARS: Final = (".tar.gz", ".tgz")
SOLID: Final = (".7z", ".rar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
"""Archives that are packed in one piece, so that no image of them can be read by itself."""

_MOST_HELD: Final = 2**29  # bytes of images of a .tar.gz, which are held in memory
_SLACK: Final = 2**28
_MOST_PACKED: Final = 16  # times the size of the file that a .tar.gz may unpack to, plus the slack


def is_archive(path: Path) -> bool:
    """Returns whether a path ends like an archive, of one of the kinds that are read or of another."""
    return path.name.lower().endswith((*ZIPS, *TARS, *PACKED_TARS, *SOLID)) and path.is_file()


def open_source(path: Path, name: str | None = None) -> Source:
    """Opens an archive whose folders are read like a folder of images (`kcv.data.folder_tree`).

    Images of a .zip or .tar are read from it one by one, when they are needed; those of a .tar.gz, which can only be
    read from its beginning, are held in memory. Links in it are passed over.

    Args:
        path: the archive.
        name: the name of the source; by default the path.

    Raises:
        DataError: the archive is damaged, encrypted or packed in one piece; a name in it leads out of it, or stands
            twice; an image is too large; or its folders cannot be read like a folder of images.
    """
    name = name or str(path)
    lower = path.name.lower()
    if lower.endswith(SOLID):
        raise DataError(f"{name}: is packed in one piece or encrypted, so its images cannot be read one by one; unpack "
                        "it, or pack it as .zip or .tar.")  # fmt: skip
    links: list[str] = []
    with refusing(name, DataError), opened(path, DataError) as stream:
        if lower.endswith(PACKED_TARS):
            source = _held(stream, path, name, links)
        else:
            whole = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            read = zip_index.members if lower.endswith(ZIPS) else _tar_members
            members = _by_name(read(stream, name, links), name, whole)
            source = read_tree(tree_of(members, path), name, lambda names: MemberImages.of(path, names, members))
    if links and source.understood is not None:
        few = f"left out: {len(links):,} link{'' if len(links) == 1 else 's'} in the archive: {shortened(links[0], 60)}"
        facts = [few + (" ..." if len(links) > 1 else "")]
        source = replace(source, understood=replace(source.understood, facts=facts))
    return source


def _tar_members(stream: Any, name: str, links: list[str]) -> Iterator[Member]:
    return (member for member, _ in tar_index.members(stream, name, links))


def _by_name(found: Iterable[Member], name: str, whole: int | None = None) -> dict[str, Member]:
    """Returns the members of an archive by their names.

    Args:
        found: the members.
        name: the name of the source.
        whole: the size of the archive, if its members are read from it later.
    """
    members: dict[str, Member] = {}
    for member in found:
        if member.name in members:
            raise DataError(f"{name}: holds {shortened(member.name)} twice.")
        if member.size > MOST_IMAGE_BYTES and _is_image(member.name):
            raise DataError(f"{name}: {shortened(member.name)} in it has {member.size:,} bytes; "
                            f"{MOST_IMAGE_BYTES:,} are allowed.")  # fmt: skip
        if whole is not None and member.offset + member.packed > whole:
            raise DataError(f"{name}: is cut off.")
        members[member.name] = member
    return _unwrapped(members)


def _unwrapped(members: Mapping[str, Member]) -> dict[str, Member]:
    """Returns the members by their names below the folders that wrap everything, as `photos` in photos/cat/1.jpg."""
    images = [name for name in members if _is_image(name)]
    prefix = ""
    for _ in range(MOST_WRAPPED):
        firsts = {name[len(prefix) :].partition("/")[0] for name in images}
        first = next(iter(firsts), "")
        if len(firsts) != 1 or split_of(first) or any(name.count("/", len(prefix)) < 2 for name in images):
            break
        prefix += f"{first}/"
    return {name.removeprefix(prefix): member for name, member in members.items()} if prefix else {**members}


def _held(stream: Any, path: Path, name: str, links: list[str]) -> Source:
    """Reads a .tar.gz once, from its beginning to its end, and holds its images."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    contents: dict[int, bytes] = {}

    def read() -> Iterator[Member]:
        held = 0
        with gzip.GzipFile(fileobj=stream) as unpacked:
            forwards = tar_index.Forwards(unpacked, _MOST_PACKED * size + _SLACK, name)
            for member, at in tar_index.members(forwards, name, links):
                if _is_image(member.name):
                    held += member.size
                    if held > _MOST_HELD:
                        raise DataError(f"{name}: its images have more than {_MOST_HELD:,} bytes, and it is packed in "
                                        "one piece; unpack it, or pack it as .zip or .tar.")  # fmt: skip
                    contents[member.offset] = at.read(member.size)
                    if len(contents[member.offset]) != member.size:
                        raise DataError(f"{name}: is cut off.")
                yield member

    members = _by_name(read(), name)
    return read_tree(tree_of(members, path), name, lambda names: [contents[members[each].offset] for each in names])


def _is_image(name: str) -> bool:
    parts = name.split("/")
    return is_image_name(parts[-1]) and not any(map(is_clutter, parts))
