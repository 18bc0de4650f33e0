"""Checks once, after lowering, that a program computes the same outputs as Keras."""

from __future__ import annotations

from typing import Any

import keras
import torch
from torch import Tensor

from kcv.native.layers.lowered import Unsupported, torch_dtype
from kcv.native.program import Program, StepError

_IMAGES = 2
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Largest allowed difference relative to the largest output; half precision accumulates rounding errors."""


def check(program: Program, model: keras.Model) -> None:
    """Compares the outputs of a program and its model, in inference mode, on random images.

    Raises:
        Unsupported: a step fails or the outputs differ.
    """
    inputs = [_random(tensor, model) for tensor in model.inputs]
    with torch.no_grad():
        try:
            ours = program(*inputs, training=False)
        except StepError as error:
            raise Unsupported(str(error)) from error
        theirs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
        coarsest = max((_tolerance(layer.compute_dtype) for layer in model._flatten_layers()), default=0.0)
        if any(_differ(a, b, coarsest) for a, b in zip(_flat(ours), _flat(theirs), strict=True)):
            culprit = program.first_mismatch(*inputs, differ=_differ)
            raise Unsupported(f"its outputs differ from Keras', first at layer {culprit or '(none alone)'}")


def _tolerance(dtype: str) -> float:
    return _TOLERANCE.get(torch_dtype(dtype), 0.0)


def _differ(a: Tensor, b: Tensor, tolerance: float = 0.0) -> bool:
    """Whether two values differ by more than their dtype allows, or than `tolerance` if that is larger."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return True
    tolerance = max(tolerance, _TOLERANCE.get(b.dtype, 0.0))
    a, b = a.double(), b.double()
    alike = (a == b) | (a.isnan() & b.isnan())  # a diverged model is no reason to abandon its program
    scale = b[b.isfinite()].abs().amax() if b.isfinite().any() else 0.0
    return not bool((alike | ((a - b).abs() <= tolerance * scale)).all())


def _flat(outputs: Any) -> list[Tensor]:
    flat: list[Tensor] = keras.tree.flatten(outputs)
    return flat


def _random(tensor: Any, model: keras.Model) -> Tensor:
    """Returns random bytes in the shape and dtype of an input; unknown dimensions become 32."""
    shape = (_IMAGES, *(32 if size is None else size for size in tensor.shape[1:]))
    device = model.variables[0].value.device if model.variables else torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator).to(device, getattr(torch, tensor.dtype))
