"""The description in exported files that are, or end in, a zip archive; kcv runs none of them.

An archive of torch.export (`.pt2`) holds it as `extra/kcv.json` (torch.export.save, `extra_files`), a file of LiteRT
(`.tflite`) in an archive behind its graph (TensorFlow Lite Metadata, "associated files"): the texts of `ExportedInfo`
by their names. Nothing else is read. When torch.export.load opens an archive, torch evaluates expressions of sizes that
stand in it as text, so a stranger's can run code; the graph of LiteRT has no checks of kcv's own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from kcv.artifact.archive import Archive, open_archive
from kcv.common.untrusted import MOST_JSON_BYTES, parse_json
from kcv.errors import ArtifactError
from kcv.inference.exported import ExportedInfo

DESCRIPTION: Final = "kcv.json"
"""The name of the file with the description."""

_MOST_MEMBERS: Final = 10_000
"""One per tensor, and a few."""
_TORCH_MEMBER: Final = re.compile(r"[^/]+/(?:[\w.-]+/)*[\w.-]+")


def describe_torch(path: Path) -> ExportedInfo:
    """Reads what an archive of torch.export says of its model.

    Raises:
        ArtifactError: the file is missing or damaged, or was not exported by kcv.
    """
    with open_archive(path, is_member=_is_torch_member, most=_MOST_MEMBERS) as archive:
        folders = {member.filename.partition("/")[0] for member in archive.members}
        return _read(archive, f"{folders.pop()}/extra/{DESCRIPTION}" if len(folders) == 1 else "")


def describe_litert(path: Path) -> ExportedInfo:
    """Reads what a file of LiteRT says of its model.

    Raises:
        ArtifactError: the file is missing or damaged, or was not exported by kcv.
    """
    with open_archive(path, is_member=lambda name: name == DESCRIPTION, most=1) as archive:
        return _read(archive, DESCRIPTION)


def _read(archive: Archive, name: str) -> ExportedInfo:
    if name not in archive:
        raise ArtifactError(f"{archive.path}: has no class names: it was not exported by kcv")
    content = archive.read(name, MOST_JSON_BYTES)
    texts = parse_json(content, archive.path, ArtifactError, otherwise="its description is damaged")
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ArtifactError(f"{archive.path}: its description is damaged")
    return ExportedInfo.from_metadata(texts, str(archive.path))


def _is_torch_member(name: str) -> bool:
    return _TORCH_MEMBER.fullmatch(name) is not None and ".." not in name.split("/")
