"""Chooses a model's precision: a Keras dtype policy that the hardware runs fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kcv.errors import DeviceError

if TYPE_CHECKING:
    import keras


def resolve_precision(asked: str, device: str, *, trains_depthwise: bool = False) -> tuple[str, str]:
    """Resolves a configured precision to a Keras dtype policy.

    Args:
        asked: `auto`, `float32`, `mixed_bfloat16` or `mixed_float16`.
        device: a device from `resolve_device`.
        trains_depthwise: whether depthwise convolutions are trained. On CPUs their gradients are slow in bfloat16
            (EfficientNet-Lite0, 96 px, batch 64, AMX-BF16: 75 images/s against 134 in float32); their forward pass is
            faster in bfloat16.

    Returns:
        The policy's name, and the reason for it as text for a log line.

    Raises:
        DeviceError: mixed_float16 on a CPU, which has no fast float16 convolutions.
    """
    if asked == "mixed_float16" and device == "cpu":
        raise DeviceError("precision='mixed_float16' needs a GPU; on a CPU use float32, mixed_bfloat16 or auto")
    if asked != "auto":
        return asked, "as asked"
    if device == "cuda":
        import torch

        # Ampere (compute capability 8) introduced bfloat16 matrix units; earlier GPUs are fast in float16 only.
        if torch.cuda.get_device_capability() >= (8, 0):
            return "mixed_bfloat16", "the GPU has bfloat16 matrix units"
        return "mixed_float16", "the GPU has float16 but no bfloat16 matrix units"
    if device == "cpu" and trains_depthwise:
        return "float32", "a CPU trains depthwise convolutions faster in it"
    if device == "cpu" and (feature := _bfloat16_feature()):
        return "mixed_bfloat16", f"the CPU has {feature}"
    return "float32", f"no fast bfloat16 on this {device}"


def _bfloat16_feature() -> str | None:
    """Returns the instruction set that makes bfloat16 convolutions faster than float32 ones on this CPU, or None.

    Without one of these, oneDNN emulates bfloat16, which is slower than float32.
    """
    import torch

    capabilities = torch.cpu.get_capabilities()
    for flag, name in (("amx_bf16", "AMX-BF16"), ("avx512_bf16", "AVX512-BF16")):
        if capabilities.get(flag):
            return name
    return None


@contextmanager
def precision_scope(policy: str) -> Iterator[None]:
    """Sets Keras' default dtype policy to `policy` while models are built, and restores the previous one afterwards."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def in_float32(model: keras.Model) -> keras.Model:
    """Returns a functional model that computes in float32: itself, or a copy with the same weights.

    Args:
        model: built; its layers may have any dtype policy.

    Returns:
        The model itself if all its layers already compute in float32; otherwise a copy on the same device.
    """
    if not any(layer.compute_dtype in ("bfloat16", "float16") for layer in model._flatten_layers()):
        return model
    import keras

    def rebuilt(layer: keras.Layer) -> keras.Layer:
        copy: keras.Layer = type(layer).from_config({**layer.get_config(), "dtype": "float32"})
        return copy

    with keras.device(str(model.variables[0].value.device)):
        copy = keras.models.clone_model(model, clone_function=rebuilt)
        copy.set_weights(model.get_weights())
    return copy
