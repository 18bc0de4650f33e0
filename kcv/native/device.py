"""Selects and describes the device a model runs on."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager
from pathlib import Path

from kcv.errors import DeviceError


def resolve_device(asked: str) -> str:
    """Resolves a configured device to one that this machine has.

    Args:
        asked: `auto`, `cpu`, `cuda` or `mps`. `auto` takes the first of cuda, mps and cpu that is available.

    Returns:
        The name, as understood by both torch and `keras.device`.

    Raises:
        DeviceError: the requested device is not available.
    """
    import torch

    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if asked == "auto":
        return available[0]
    if asked not in available:
        raise DeviceError(f"device={asked!r} is not available here; available: {', '.join(available)}")
    return asked


def device_scope(device: str) -> AbstractContextManager[object]:
    """Returns the context in which Keras creates its variables and tensors on `device`."""
    import keras

    scope: AbstractContextManager[object] = keras.device(device)
    return scope


def describe_device(device: str) -> str:
    """Returns the common name of the hardware, such as `NVIDIA H100` or a processor's model name."""
    import torch

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    if device == "mps":
        return f"Apple GPU ({platform.machine()})"
    return _processor_name()


def synchronize(device: str) -> None:
    """Waits until a device has finished all queued work; CPUs always have."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
