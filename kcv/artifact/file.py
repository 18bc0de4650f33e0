"""Writing model files, and reading what they say of themselves."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.artifact.allowed import check_classes
from kcv.artifact.archive import CONFIG_MEMBER, INFO_MEMBER, open_archive
from kcv.artifact.info import ArtifactInfo, parse_info
from kcv.common.files import atomic
from kcv.common.untrusted import MOST_JSON_BYTES
from kcv.errors import ArtifactError

if TYPE_CHECKING:
    import keras


def save(path: str | Path, model: keras.Model, info: ArtifactInfo) -> Path:
    """Writes a model and its description as one file, whole or not at all.

    Args:
        path: where to; the suffix must be `.keras`.
        model: an uncompiled functional model of standard Keras layers.
        info: its description.

    Returns:
        The path.

    Raises:
        OutputError: when the place cannot be written to.
        ArtifactError: when the model holds layers that `load` would refuse.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ArtifactError(f"{path}: a model file's name ends in .keras")
    with atomic(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            check_classes(json.loads(archive.read(CONFIG_MEMBER)), str(path))
            archive.writestr(INFO_MEMBER, info.model_dump_json(indent=2))
    return path


def describe_again(path: Path, info: ArtifactInfo) -> None:
    """Replaces what a model file says of itself; the model in it stays as it is, to the byte.

    Raises:
        ArtifactError: the file is missing or damaged.
        OutputError: the place cannot be written to; the file is as it was.
    """
    with open_archive(path) as old, atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as new:
        for member in old.members:
            if member.filename != INFO_MEMBER:
                with new.open(copy.copy(member), "w") as target:  # which writes its new place into it
                    for piece in old.pieces(member.filename):
                        target.write(piece)
        new.writestr(INFO_MEMBER, info.model_dump_json(indent=2), zipfile.ZIP_DEFLATED)


def read_info(path: str | Path) -> ArtifactInfo:
    """Reads what a model file says of itself, without Keras.

    Raises:
        ArtifactError: when the file is missing, damaged, not a model file, without a description, or too new.
    """
    path = Path(path)
    with open_archive(path) as archive:
        return parse_info(archive.read(INFO_MEMBER, MOST_JSON_BYTES), path)


def is_described(path: str | Path) -> bool:
    """Tells whether a file is one that kcv wrote. Raises ArtifactError where it is no archive at all."""
    with open_archive(Path(path)) as archive:
        return INFO_MEMBER in archive
