"""Parity: what a program computes against what Keras computes, from the same state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import pytest
import torch
from torch import Tensor

from kcv.native.lowering import lower
from kcv.native.program import Program


@dataclass(frozen=True)
class Outcome:
    """What one pass over one batch comes to."""

    outputs: Tensor
    gradients: list[Tensor]
    statistics: list[Tensor]


def run(forward: Callable[[Tensor], Tensor], model: keras.Model, x: Tensor) -> Outcome:
    """Runs one pass and its gradients, and puts the model's state back."""
    fixed = [variable for variable in model.variables if not variable.trainable]
    before = [variable.value.detach().clone() for variable in fixed]
    torch.manual_seed(0)
    outputs = forward(x)
    torch.manual_seed(1)
    loss = (outputs.float() * torch.randn(outputs.shape)).sum()
    parameters = [variable.value for variable in model.trainable_variables]
    gradients = list(torch.autograd.grad(loss, parameters)) if parameters else []
    after = [variable.value.detach().clone() for variable in fixed]
    with torch.no_grad():
        for variable, value in zip(fixed, before, strict=True):
            variable.value.copy_(value)
    return Outcome(outputs.detach(), gradients, after)


def assert_close(ours: Outcome, theirs: Outcome, tolerance: float) -> None:
    """Compares two outcomes; tolerances are parts of each tensor's largest entry."""
    pairs = [(ours.outputs, theirs.outputs)]
    pairs += zip(ours.gradients, theirs.gradients, strict=True)
    pairs += zip(ours.statistics, theirs.statistics, strict=True)
    largest = max((g.abs().max().item() for g in theirs.gradients), default=0.0)
    for a, b in pairs:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        # A gradient that should be zero (a bias before BatchNormalization) is noise of the size of the others'.
        scale = max(b.float().abs().max().item(), 0.1 * largest, 1e-6)
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=tolerance * scale)


def scale_of(outcome: Outcome) -> float:
    """Returns the size of the largest output."""
    return max(outcome.outputs.float().abs().max().item(), 1e-6)


@pytest.fixture
def assert_parity() -> Callable[..., Program]:
    """Asserts that a model's program gives Keras' outputs, gradients and moving statistics in both modes."""

    def check(model: keras.Model, x: Any, *, tolerance: float = 1e-4, native: bool = True, **target: Any) -> Program:
        # Keras first: the kernels still lie in memory as Keras laid them.
        theirs = [run(lambda x, training=training: model(x, training=training), model, x) for training in (False, True)]
        program = lower(model, **target)
        if native:
            assert program.fallback_layers == ()
        for training, reference in zip((False, True), theirs, strict=True):
            ours = run(lambda x, training=training: program(x, training=training), model, x)
            assert_close(ours, reference, tolerance)
        with torch.inference_mode():  # where values that no gradient needs are overwritten
            alone = program(x.clone(), training=False)
        torch.testing.assert_close(
            alone.float(), theirs[0].outputs.float(), rtol=0, atol=tolerance * scale_of(theirs[0])
        )
        return program

    return check
