"""Opens model files: checks the content, lets Keras build the model, and reports any failure in one line."""

from __future__ import annotations

import io
import json
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.artifact.allowed_layers import check_classes, check_top
from kcv.artifact.archive import CONFIG_MEMBER, METADATA_MEMBER, WEIGHTS_MEMBER, Archive, open_archive
from kcv.artifact.bounds import check_fixed, check_size
from kcv.artifact.file import read_info
from kcv.artifact.structure import check_structure
from kcv.artifact.weights import check_weights
from kcv.common.model_reference import is_reference
from kcv.common.text import printable
from kcv.common.untrusted import MOST_JSON_BYTES, parse_json, refusing
from kcv.errors import ArtifactError
from kcv.inference.locating import model_file
from kcv.inference.runtimes import runtime_of

if TYPE_CHECKING:
    import keras

    from kcv.inference.keras_model import LoadedModel

_FAILED = "cannot be opened as a Keras model"


def load(path: str | Path, *, device: str = "auto") -> LoadedModel:
    """Opens a model file: reads its description, checks its layer classes, then loads it with Keras.

    Args:
        path: the model file, or a model in MLflow or the Hub; see `kcv.inference.locating`.
        device: the device to run on: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        ArtifactError: the file is missing, damaged, not written by kcv, unsafe, or contradicts its description.
        DeviceError: the device is not available.

    Example:
        >>> model = kcv.load_model("runs/photos/model.keras")
        >>> model.predict(["one.png", "two.png"])
    """
    path = model_file(path) if is_reference(path) else Path(path)
    if (runtime := runtime_of(path)) is not None:
        raise ArtifactError(f"{path}: is an exported file ({runtime.title}); here the .keras file is needed")
    info = read_info(path)
    model = load_keras(path, device=device)
    expected = ((None, info.image_size, info.image_size, 3), (None, len(info.class_names)))
    with refusing(path, ArtifactError, _FAILED):
        found = (model.input_shape, model.output_shape)
        if found != expected:
            maps = " to ".join(str(shape)[:100] for shape in found)
            said = " to ".join(map(str, expected))
            raise ArtifactError(f"{path}: maps {maps}, but its description says {said}")
        check_fixed(model, str(path))
    from kcv.inference.keras_model import LoadedModel

    return LoadedModel(path, info, model)


def load_keras(path: str | Path, *, device: str = "auto") -> keras.Model:
    """Opens a `.keras` file of any origin without compiling it, after checking its layer classes.

    Raises:
        ArtifactError: the file is missing, damaged or unsafe.
        DeviceError: the device is not available.
    """
    path, origin = Path(path), str(path)
    with open_archive(path) as archive:
        text = archive.read(CONFIG_MEMBER, MOST_JSON_BYTES)
        config = parse_json(text, path, ArtifactError, otherwise=f"its {CONFIG_MEMBER} is damaged")
        if not isinstance(config, dict):
            raise ArtifactError(f"{origin}: its {CONFIG_MEMBER} is damaged: holds no object")
        config.pop("compile_config", None)  # never loaded
        check_structure(config, origin)
        check_classes(config, origin)
        check_top(config, origin)
        weights = archive.read(WEIGHTS_MEMBER)
        stored = check_weights(weights, archive.bytes, origin)
        written_with = _keras_of(archive, path)

    from kcv.native.device import device_scope, resolve_device
    from kcv.native.giving_way import follow_load

    where = resolve_device(device)
    if where == "cpu":
        follow_load()
    other = f" (written with keras {written_with}, here is keras {version('keras')})"
    # Keras raises different errors for different damage (KeyError, OSError, TypeError ...); all mean the same here.
    with refusing(path, ArtifactError, _FAILED + (other if written_with not in (None, version("keras")) else "")):
        kept = json.dumps(config).encode()  # serialised first, because Keras modifies a configuration
        check_size(config, stored, origin)
        with device_scope(where):
            return _built(kept, weights)


def _keras_of(archive: Archive, path: Path) -> str | None:
    """Returns the Keras version that a file says it was written with; a version mismatch may explain a failure."""
    if METADATA_MEMBER not in archive:
        return None
    try:
        metadata = parse_json(archive.read(METADATA_MEMBER, MOST_JSON_BYTES), path, ArtifactError)
    except ArtifactError:
        return None
    found = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return printable(found)[:30] if isinstance(found, str) else None


def _built(config: bytes, weights: bytes) -> Any:
    """Lets Keras build a model in memory from the checked content.

    Given the file itself, Keras would unpack everything into the temporary folder, which may be full.
    """
    from keras.src.saving import saving_lib  # no public function takes an open file

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(CONFIG_MEMBER, config)
        archive.writestr(WEIGHTS_MEMBER, weights)
    return saving_lib.load_model(packed, compile=False, safe_mode=True)
