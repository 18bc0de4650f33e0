"""Writes model files, and reads their descriptions."""

from __future__ import annotations

import copy
import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.artifact.allowed_layers import check_classes
from kcv.artifact.archive import CONFIG_MEMBER, INFO_MEMBER, WEIGHTS_MEMBER, open_archive
from kcv.artifact.info import ArtifactInfo, parse_info
from kcv.common.files import atomic
from kcv.common.untrusted import MOST_JSON_BYTES
from kcv.errors import ArtifactError

if TYPE_CHECKING:
    import keras


def save(path: str | Path, model: keras.Model, info: ArtifactInfo) -> Path:
    """Writes a model and its description to one file, atomically.

    Args:
        path: path of the file; the suffix must be `.keras`.
        model: an uncompiled functional model of standard Keras layers.
        info: its description.

    Returns:
        The path.

    Raises:
        OutputError: the file cannot be written.
        ArtifactError: the suffix is wrong, or the model contains layers that `load` would reject.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ArtifactError(f"{path}: a model file's name ends in .keras")
    with atomic(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            check_classes(json.loads(archive.read(CONFIG_MEMBER)), str(path))
            # Stored: thousands of classes with equal figures compress by more than readers accept.
            archive.writestr(INFO_MEMBER, info.model_dump_json(indent=2), zipfile.ZIP_STORED)
    return path


def describe_again(path: Path, info: ArtifactInfo) -> None:
    """Replaces the description in a model file; the model itself stays unchanged, byte for byte.

    Raises:
        ArtifactError: the file is missing or damaged.
        OutputError: the file cannot be written; it is then unchanged.
    """
    with open_archive(path) as old, atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as new:
        for member in old.members:
            if member.filename != INFO_MEMBER:
                with new.open(copy.copy(member), "w") as target:  # a copy: open() writes the new offset into it
                    for piece in old.pieces(member.filename):
                        target.write(piece)
        # With the time of the old description, so that the same content makes the same file.
        described = next((copy.copy(each) for each in old.members if each.filename == INFO_MEMBER), INFO_MEMBER)
        new.writestr(described, info.model_dump_json(indent=2), zipfile.ZIP_STORED)


def read_info(path: str | Path) -> ArtifactInfo:
    """Reads the description of a model file, without Keras.

    Raises:
        ArtifactError: the file is missing, damaged, not a model file, has no description, or is too new.
    """
    path = Path(path)
    with open_archive(path) as archive:
        return parse_info(archive.read(INFO_MEMBER, MOST_JSON_BYTES), path)


def is_described(path: str | Path) -> bool:
    """Returns whether kcv wrote a file. Raises ArtifactError if it is not an archive."""
    with open_archive(Path(path)) as archive:
        return INFO_MEMBER in archive


def weights_digest(path: str | Path) -> str:
    """Returns the SHA-256 (hex) of the weights in a model file, which stays when the file is described again.

    Raises:
        ArtifactError: the file is missing or damaged, or has no weights.
    """
    digest = hashlib.sha256()
    with open_archive(Path(path)) as archive:
        archive.require(WEIGHTS_MEMBER)
        for piece in archive.pieces(WEIGHTS_MEMBER):
            digest.update(piece)
    return digest.hexdigest()
