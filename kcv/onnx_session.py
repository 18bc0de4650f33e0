"""Opening ONNX files of any origin with onnxruntime."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.errors import ArtifactError, DeviceError, first_line

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(path: Path, *, device: str = "auto", threads: int | None = None) -> onnxruntime.InferenceSession:
    """Opens an ONNX file of any origin.

    Raises:
        ArtifactError: the file is missing or damaged.
        DeviceError: onnxruntime cannot use the device.
    """
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder; expected a model file such as {path / 'model.onnx'}")
    if not path.exists():
        raise ArtifactError(f"{path}: no such model file")
    if not path.is_file():  # a pipe or a device would block, or never end
        raise ArtifactError(f"{path}: is no regular file")
    if _has_other_files(path):
        raise ArtifactError(f"{path}: keeps its weights in other files, which kcv does not open")
    import onnxruntime

    providers = _providers(device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters arrives as an exception
    if threads is not None:
        options.intra_op_num_threads = threads
        if threads == 1:
            # Several threads call at once: each computes alone, and what it frees is the next one's to use.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Its fallback prints, and tries the same again.
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    # onnxruntime has a class of errors for each kind of damage, with no common name that is public.
    except Exception as error:
        raise ArtifactError(f"{path}: cannot be opened as an ONNX model: {first_line(error)}") from error


def _has_other_files(path: Path) -> bool:
    """Whether a tensor of an ONNX file is said to be in another file.

    Such a tensor has an entry whose key, field 1 of its message, is the text `location`.
    """
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"\x0a\x08location") >= 0


def _providers(device: str) -> list[Any]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    here = [name for name, provider in _PROVIDERS.items() if provider in available]
    if device == "auto":
        return [_PROVIDERS[name] for name in ("cuda", "cpu") if name in here]
    if device not in here:
        raise DeviceError(f"device={device!r} is not available to onnxruntime here; available: {', '.join(here)}")
    return [_PROVIDERS[device]]
