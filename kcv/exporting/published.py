"""A model file as the files of a public repository: without places on this machine, and as Keras' own layout beside it.

Keras opens `config.json` and `model.weights.h5` at the root of a repository (keras/src/saving/saving_lib.py,
`load_model`, `_load_model_from_dir`): the members of a model file.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from kcv.artifact import ArtifactInfo, read_info
from kcv.artifact.archive import CONFIG_MEMBER, INFO_MEMBER, METADATA_MEMBER, WEIGHTS_MEMBER, open_archive
from kcv.artifact.file import describe_again
from kcv.common.redaction import data_without_credentials, hide_credentials
from kcv.inference import opening

MODEL: Final = "model.keras"
_LAYOUT = (CONFIG_MEMBER, METADATA_MEMBER, WEIGHTS_MEMBER, INFO_MEMBER)
_PRIVATE = ("tracking", "output_dir")
"""What a configuration holds about the machine alone."""


def publish(model: Path, folder: Path) -> dict[str, Path]:
    """Writes the files of a repository.

    Args:
        model: a model file, which is checked as whenever it is opened.
        folder: an empty folder.

    Returns:
        The files by their names in the repository.

    Raises:
        ArtifactError: the model cannot be opened.
        OSError: the folder cannot be written to; in the block of `temporary_folder`, that is an OutputError.
    """
    opening.load(model, device="cpu")
    copy = folder / MODEL
    shutil.copyfile(model, copy)
    describe_again(copy, published_info(read_info(model)))
    with open_archive(copy) as archive:
        for name in _LAYOUT:
            with (folder / name).open("wb") as target:
                target.writelines(archive.pieces(name))
    return {name: folder / name for name in (MODEL, *_LAYOUT)}


def published_info(info: ArtifactInfo) -> ArtifactInfo:
    """Returns a description without what is about the machine: its paths, tracking store and passwords.

    Example:
        >>> published_info(info).config["data"]["source"]  # was /home/anna/photos
        'photos'
    """
    kept = {key: _without_places(value) for key, value in info.config.items() if key not in _PRIVATE}
    source = info.model_source
    return info.model_copy(
        update={
            "config": kept,
            "data_name": without_place(info.data_name),
            "model_name": without_place(info.model_name),
            "model_source": source and source.model_copy(update={"name": without_place(source.name)}),
        }
    )


def without_place(text: str) -> str:
    """Returns the last part of an absolute path, and a URL without its password; other text stays unchanged.

    Example:
        >>> without_place("/home/anna/photos")
        'photos'
    """
    if "://" in text:
        return hide_credentials(data_without_credentials(text))
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute() or text.startswith("~"):
            return path.name or "data"
    return text


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    return without_place(value) if isinstance(value, str) else value
