"""Writing and opening model files."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kcv.artifact.allowed import check_classes
from kcv.artifact.bounds import check_archive, check_size
from kcv.artifact.info import FORMAT_VERSION, ArtifactInfo
from kcv.errors import ArtifactError, KcvError
from kcv.files import atomic
from kcv.names import plain

if TYPE_CHECKING:
    import keras

    from kcv.artifact.loaded import LoadedModel

INFO_MEMBER = "kcv.json"
_MOST_JSON_BYTES = 16 * 1024 * 1024


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
            check_classes(json.loads(archive.read("config.json")), str(path))
            archive.writestr(INFO_MEMBER, info.model_dump_json(indent=2))
    return path


def describe_again(path: Path, info: ArtifactInfo) -> None:
    """Replaces what a model file says of itself; the model in it stays as it is, to the byte.

    Raises:
        ArtifactError: the file is missing or damaged.
        OutputError: the place cannot be written to; the file is as it was.
    """
    with _archive(path) as old, atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as new:
        for member in old.infolist():
            if member.filename != INFO_MEMBER:
                with old.open(member) as source, new.open(member, "w") as target:
                    shutil.copyfileobj(source, target)
        new.writestr(INFO_MEMBER, info.model_dump_json(indent=2), zipfile.ZIP_DEFLATED)


def read_info(path: str | Path) -> ArtifactInfo:
    """Reads what a model file says of itself, without Keras.

    Raises:
        ArtifactError: when the file is missing, damaged, not a model file, without a description, or too new.
    """
    path = Path(path)
    text = _read_member(path, INFO_MEMBER)
    try:
        return ArtifactInfo.model_validate_json(text)
    except ValidationError as error:
        version = _loose_version(text)
        if isinstance(version, int) and version > FORMAT_VERSION:
            message = f"{path}: written by a newer kcv (format {version}); this one reads {FORMAT_VERSION}"
            raise ArtifactError(message) from None
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or INFO_MEMBER
        raise ArtifactError(f"{path}: its description is damaged: {key}: {first['msg']}") from None


def load(path: str | Path, *, device: str = "auto") -> LoadedModel:
    """Opens a model file: description first, then the class check, then Keras.

    Args:
        path: of the file.
        device: where the model is to run: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        ArtifactError: when the file is missing, damaged, foreign, unsafe, or not what it says.
        DeviceError: when the device is not there.
    """
    path = Path(path)
    info = read_info(path)
    model = load_keras(path, device=device)
    expected = ((None, info.image_size, info.image_size, 3), (None, len(info.class_names)))
    if (model.input_shape, model.output_shape) != expected:
        raise ArtifactError(
            f"{path}: maps {model.input_shape} to {model.output_shape}, "
            f"but its description says {expected[0]} to {expected[1]}"
        )
    from kcv.artifact.loaded import LoadedModel

    return LoadedModel(path, info, model)


def is_described(path: str | Path) -> bool:
    """Tells whether a file is one that kcv wrote. Raises ArtifactError where it is no archive at all."""
    with _archive(Path(path)) as archive:
        return INFO_MEMBER in archive.namelist()


def load_keras(path: str | Path, *, device: str = "auto") -> keras.Model:
    """Opens a `.keras` file of any origin, after the class check, uncompiled.

    Raises:
        ArtifactError: when the file is missing, damaged or unsafe.
        DeviceError: when the device is not there.
    """
    path = Path(path)
    try:
        config = json.loads(_read_member(path, "config.json"))
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: its config.json is damaged") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: its config.json is damaged")
    config.pop("compile_config", None)  # never opened
    check_classes(config, str(path))
    with _archive(path) as archive:
        stored = check_archive(archive, str(path))

    import keras

    from kcv.native.device import device_scope, resolve_device

    where = resolve_device(device)
    try:
        check_size(config, stored, str(path))
        with device_scope(where):
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except KcvError:
        raise
    # Keras raises whatever the damage happens to hit (KeyError, OSError, TypeError ...); all mean one thing here.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        other = _other_keras(path, keras.__version__)
        raise ArtifactError(f"{path}: cannot be opened as a Keras model{other}: {reason}") from error


def _other_keras(path: Path, ours: str) -> str:
    """Returns what a message says where a file was written with another Keras than `ours`; it may be the reason."""
    try:
        theirs = str(json.loads(_read_member(path, "metadata.json"))["keras_version"])
    except (ArtifactError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" (written with keras {plain(theirs)[:30]}, here is keras {ours})" if theirs != ours else ""


def _read_member(path: Path, member: str) -> bytes:
    """Reads one JSON member of the archive, bounded in size."""
    with _archive(path) as archive:
        if member not in archive.namelist():
            hint = "it was not written by kcv" if member == INFO_MEMBER else "it is not a Keras model"
            raise ArtifactError(f"{path}: has no {member}: {hint}")
        if archive.getinfo(member).file_size > _MOST_JSON_BYTES:
            raise ArtifactError(f"{path}: its {member} is larger than {_MOST_JSON_BYTES} bytes")
        return archive.read(member)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder; expected a model file such as {path / 'model.keras'}")
    if not path.exists():
        raise ArtifactError(f"{path}: no such model file")
    if not path.is_file():  # a pipe or a device would block, or never end
        raise ArtifactError(f"{path}: is no regular file")
    if path.suffix.lower() == ".onnx":
        raise ArtifactError(f"{path}: is an ONNX file, which predict and info take; here the .keras file is needed")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not a model file, or a damaged one ({error})") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None


def _loose_version(text: bytes) -> Any:
    try:
        return json.loads(text).get("format_version")
    except (ValueError, AttributeError, RecursionError):
        return None
