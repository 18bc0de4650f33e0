"""Opens ONNX files with onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.common.untrusted import refusing
from kcv.errors import ArtifactError, DeviceError

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(
    path: Path, *, device: str = "auto", threads: int | None = None, content: bytes | None = None
) -> onnxruntime.InferenceSession:
    """Opens an ONNX file that is trusted or that `kcv.inference.onnx_graph` has checked.

    Args:
        path: the file.
        device: `auto`, `cpu` or `cuda`.
        threads: threads per batch; None for one per core.
        content: what to open in place of the file's content.

    Raises:
        ArtifactError: the file is missing or damaged.
        DeviceError: onnxruntime cannot use the device.
    """
    import onnxruntime

    providers = _providers(device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # real problems are raised as exceptions
    if threads is not None:
        options.intra_op_num_threads = threads
        if threads == 1:
            # Several threads call at once, each on its own core: a thread that waits must leave its core to the others.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # onnxruntime raises a different error class for each kind of damage; they have no public base class.
    with refusing(path, ArtifactError, "cannot be opened as an ONNX model"):
        # Its fallback would print and then retry the same call.
        return onnxruntime.InferenceSession(content or str(path), options, providers=providers, enable_fallback=0)


def _providers(device: str) -> list[Any]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    here = [name for name, provider in _PROVIDERS.items() if provider in available]
    if device == "auto":
        return [_PROVIDERS[name] for name in ("cuda", "cpu") if name in here]
    if device not in here:
        raise DeviceError(f"device={device!r} is not available to onnxruntime here; available: {', '.join(here)}")
    return [_PROVIDERS[device]]
