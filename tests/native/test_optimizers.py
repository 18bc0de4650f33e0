from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers

from kcv.native.layers.lowered import Target
from kcv.native.lowering import lower
from kcv.native.optimizers import FusedAdamW, FusedSGD
from kcv.training.optimizer import WarmupDecay

STEPS = 40


def small_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(layers.ReLU()(x))))


def gradients(model: keras.Model, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(variable.shape, generator=generator) for variable in model.trainable_variables]


def drive(model: keras.Model, optimizer: keras.optimizers.Optimizer, first: int = 0, last: int = STEPS) -> None:
    for step in range(first, last):
        with torch.no_grad():
            optimizer.apply(gradients(model, step), model.trainable_variables)


def assert_same(ours: list[Any], theirs: list[Any], tolerance: float = 2e-6) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.path.split("/")[-1] == b.path.split("/")[-1]
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=tolerance * 10, atol=tolerance)


def schedule() -> WarmupDecay:
    return WarmupDecay(0.01, total_steps=STEPS, warmup_steps=5, decay="linear")


OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {"learning_rate": 0.01},
    "scheduled": {"learning_rate": schedule()},
    "decayed": {"learning_rate": schedule(), "weight_decay": 0.3},
    "averaged": {"learning_rate": 0.01, "use_ema": True, "ema_momentum": 0.9},
    "averaged, written back": {"learning_rate": 0.01, "use_ema": True, "ema_overwrite_frequency": 7},
    "clipped": {"learning_rate": 0.01, "global_clipnorm": 0.5},
    "accumulated": {"learning_rate": 0.01, "gradient_accumulation_steps": 4, "weight_decay": 0.1},
}
ADAM = {"amsgrad": {"learning_rate": 0.01, "amsgrad": True}, "betas": {"beta_1": 0.5, "beta_2": 0.7, "epsilon": 1e-3}}
SGD = {
    "momentum": {"learning_rate": schedule(), "momentum": 0.9, "weight_decay": 0.1},
    "nesterov": {"learning_rate": schedule(), "momentum": 0.85, "nesterov": True},
}
BOTH = {"adamw": (FusedAdamW, keras.optimizers.AdamW, ADAM), "sgd": (FusedSGD, keras.optimizers.SGD, SGD)}
CASES = [
    pytest.param(fused, stock, options, id=f"{kind} {name}")
    for kind, (fused, stock, own) in BOTH.items()
    for name, options in {**OPTIONS, **own}.items()
]


@pytest.mark.parametrize("moved", [False, True], ids=["as built", "kernels laid out again"])
@pytest.mark.parametrize(("fused", "stock", "options"), CASES)
def test_it_moves_weights_and_state_as_keras_does(fused: Any, stock: Any, options: Any, moved: bool) -> None:
    results = []
    for make in (fused, stock):
        model = small_model()
        if moved:
            lower(model, Target(torch.channels_last))
        optimizer = make(**options)
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
        drive(model, optimizer)
        optimizer.finalize_variable_values(model.trainable_variables)
        results.append((model.variables, optimizer.variables))
    (weights, state), (their_weights, their_state) = results
    assert_same(weights, their_weights)
    assert_same(state, their_state)


@pytest.mark.parametrize(
    ("fused", "stock", "options"),
    [(FusedAdamW, keras.optimizers.AdamW, {}), (FusedSGD, keras.optimizers.SGD, {"momentum": 0.9})],
)
def test_state_goes_from_one_to_the_other_and_on(fused: Any, stock: Any, options: Any) -> None:
    """Half the steps with one, the rest with the other: the same end as all with either."""
    whole = small_model()
    drive(whole, stock(learning_rate=schedule(), **options))
    for first, second in ((fused, stock), (stock, fused), (fused, fused)):
        model = small_model()
        begun, continued = first(learning_rate=schedule(), **options), second(learning_rate=schedule(), **options)
        drive(model, begun, last=STEPS // 2)
        continued.build(model.trainable_variables)
        state: dict[str, Any] = {}
        begun.save_own_variables(state)
        continued.load_own_variables(state)
        drive(model, continued, first=STEPS // 2)
        assert_same(model.variables, whole.variables)


def test_the_host_counts_steps_without_asking_and_notices_other_writers() -> None:
    model, optimizer = small_model(), FusedAdamW(0.01)
    optimizer.build(model.trainable_variables)
    drive(model, optimizer, last=3)
    assert optimizer._counted == (3, optimizer._iterations.value._version)
    optimizer.iterations.assign(10)
    drive(model, optimizer, last=1)
    assert optimizer._counted is not None
    assert optimizer._counted[0] == 11
    assert int(optimizer.iterations) == 11


def test_gradients_may_lie_in_memory_in_any_way() -> None:
    results = []
    for transposed in (False, True):
        model, optimizer = small_model(), FusedAdamW(0.01)
        lower(model, Target(torch.channels_last))
        for step in range(5):
            grads = gradients(model, step)
            if transposed:
                grads = [g.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) if g.ndim == 4 else g for g in grads]
            with torch.no_grad():
                optimizer.apply(grads, model.trainable_variables)
        results.append(model.variables)
    assert_same(*results)


@pytest.mark.parametrize("fused", [FusedAdamW, FusedSGD])
def test_chosen_variables_have_a_learning_rate_of_their_own(fused: Any) -> None:
    """As if they had been trained apart, by an optimizer of that rate."""
    model, faster, plain = small_model(), small_model(), small_model()
    optimizer = fused(0.01, weight_decay=0.1)
    optimizer.scale_learning_rate(lambda variable: 3.0 if variable.name in ("bias", "beta") else 1.0)
    drive(model, optimizer, last=5)
    drive(plain, fused(0.01, weight_decay=0.1), last=5)
    drive(faster, fused(0.03, weight_decay=0.1), last=5)
    trained = (small.trainable_variables for small in (model, plain, faster))
    for ours, slow, fast in zip(*trained, strict=True):
        expected = fast if ours.name in ("bias", "beta") else slow
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=1e-5, atol=1e-7)


def test_it_serialises_as_keras_does() -> None:
    for optimizer in (FusedAdamW(0.02, weight_decay=0.3), FusedSGD(0.1, momentum=0.8, nesterov=True)):
        again = type(optimizer).from_config(optimizer.get_config())
        assert again.get_config() == optimizer.get_config()


def test_one_call_updates_all_parameters_of_a_group(tmp_path: Path) -> None:
    model, optimizer = small_model(), FusedAdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    drive(model, optimizer, last=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        drive(model, optimizer, last=1)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::_fused_adamw_"] == 2
