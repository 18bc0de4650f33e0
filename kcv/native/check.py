"""Whether a program computes what Keras computes: tried once, when it is made."""

from __future__ import annotations

from typing import Any

import keras
import torch
from torch import Tensor

from kcv.native.layers.lowered import Unsupported
from kcv.native.program import Program, StepError

_PICTURES = 2
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE = 0.1
"""Largest difference, as a part of the largest output: coarse for half precision, whose roundings add up."""


def check(program: Program, model: keras.Model) -> None:
    """Compares the outputs of a program and of its model, in inference mode, on random pictures.

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
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        difference = (a.float() - b.float()).abs().max().item()
        scale = max(b.float().abs().max().item(), 1e-6)
        if not difference <= _TOLERANCE.get(b.dtype, _COARSE) * scale:
            raise Unsupported(f"its outputs differ from Keras' by {difference:.2g} where the largest is {scale:.2g}")


def _random(tensor: Any, model: keras.Model) -> Tensor:
    """Returns random bytes in the shape and dtype of an input, open dimensions at 32."""
    shape = (_PICTURES, *(32 if size is None else size for size in tensor.shape[1:]))
    device = model.variables[0].value.device if model.variables else torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator).to(device, getattr(torch, tensor.dtype))
