"""The moving statistics of all batch normalisations, updated together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.utils._python_dispatch import TorchDispatchMode

from kcv.native.layers.moving import MovingStatistics
from kcv.native.lowering import lower
from kcv.native.program import StepError


def chain(normalisations: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = x = layers.Input((4, 4, 3))
    for _ in range(normalisations):
        x = layers.BatchNormalization(momentum=0.7)(layers.Conv2D(5, 1)(x))
    return keras.Model(inputs, x)


def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(3, 2, (6, 4, 4, 3)).astype(np.float32))


def state(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy().copy() for variable in model.non_trainable_variables]


def moved(model: keras.Model) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the statistics after a pass of the program, and after the same pass through Keras."""
    before = state(model)
    lower(model)(images(), training=True)
    ours = state(model)
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        variable.assign(value)
    model(images(), training=True)
    return ours, state(model)


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[call.name()] += 1
        return call(*args, **(kwargs or {}))


def test_one_call_serves_all_layers() -> None:
    seen = []
    for normalisations in (1, 4):
        program = lower(chain(normalisations))
        with Calls() as calls:
            program(images(), training=True)
        seen.append({name: calls.names[name] for name in ("aten::zeros", "aten::_foreach_mul.ScalarList")})
        assert sum(count for name, count in calls.names.items() if "lerp" in name) == 1
        assert not calls.names["aten::zeros_like"]
    assert seen[0] == seen[1] == {"aten::zeros": 1, "aten::_foreach_mul.ScalarList": 1}


def test_a_layer_that_is_called_twice_moves_twice() -> None:
    inputs = layers.Input((4, 4, 3))
    shared = layers.BatchNormalization(momentum=0.7)
    model = keras.Model(inputs, shared(layers.ReLU()(shared(inputs))))
    before = state(model)
    ours, theirs = moved(model)
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ours[0], before[0])


def test_layers_move_at_their_own_rates() -> None:
    model = chain(3)
    model.layers[-1].momentum = 0.1
    for mine, expected in zip(*moved(model), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_two_passes_before_a_backward_pass() -> None:
    model = chain(2)
    program = lower(model)
    outputs = [program(images() * factor, training=True).sum() for factor in (1.0, 2.0)]
    (outputs[0] + outputs[1]).backward()  # each pass has its own batch statistics
    assert all(torch.isfinite(variable.value.grad).all() for variable in model.trainable_variables)


def test_a_failed_pass_leaves_no_statistics() -> None:
    model = chain(2)
    program = lower(model)
    before = state(model)
    working = program.steps[-1].run

    def failing(training: bool, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    object.__setattr__(program.steps[-1], "run", failing)
    with pytest.raises(StepError, match="no memory"):
        program(images() + 100.0, training=True)
    for now, then in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(now, then)
    object.__setattr__(program.steps[-1], "run", working)
    program(images(), training=True)
    after = state(model)
    other = chain(2)
    lower(other)(images(), training=True)
    for mine, expected in zip(after, state(other), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_room_for_each_dtype() -> None:
    statistics = MovingStatistics()
    entries = [
        statistics.register(torch.zeros(3, dtype=kind), torch.ones(3, dtype=kind))
        for kind in (torch.float32, torch.float64)
    ]
    assert [statistics.room(entry)[0].dtype for entry in entries] == [torch.float32, torch.float64]
