"""Steps that ask nothing of the host: they compute what Keras' steps compute, and a recording does the same again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch import Tensor

from kcv.native.cuda_graph import WARM_UP, Recording, Replayed
from kcv.native.model import NativeModel, compile_classifier
from kcv.native.optimizers import Fused, FusedAdamW, FusedSGD

IMAGES = np.random.default_rng(0).integers(0, 256, (44, 8, 8, 3), dtype=np.uint8)
TARGETS = np.eye(3, dtype=np.float32)[np.random.default_rng(1).integers(0, 3, 44)] * 0.9 + 0.1 / 3


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = layers.Input((8, 8, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def schedule() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.CosineDecay(0.02, 12, warmup_target=0.1, warmup_steps=3)


def fitted(optimizer: keras.optimizers.Optimizer, on_device: bool, **options: Any) -> tuple[NativeModel, Any]:
    if hasattr(optimizer, "scale_learning_rate"):
        optimizer.scale_learning_rate(lambda variable: 0.5 if variable.path.startswith("conv") else 1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    model = NativeModel(network())
    model.on_device = on_device
    compile_classifier(model, optimizer, **options)
    history = model.fit(IMAGES, TARGETS, batch_size=16, epochs=4, shuffle=False, verbose=0)
    return model, history.history


def everything(model: NativeModel) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def pretended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets a CPU record: the recording runs the step again, on its own inputs. Returns the sizes of what it replays."""
    replayed: list[int] = []

    def record(run: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Recording:
        inputs = [tensor.clone() for tensor in tensors]
        output = torch.empty(len(inputs[0]), 3)

        def replay() -> None:
            replayed.append(len(inputs[0]))
            output.copy_(run(*inputs))

        return Recording(inputs, output, replay)

    monkeypatch.setattr(Replayed.__init__, "__defaults__", (lambda: record,))
    return replayed


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "AdamW": lambda: FusedAdamW(schedule(), weight_decay=0.1),
    "AdamW, large epsilon": lambda: FusedAdamW(0.01, weight_decay=0.1, epsilon=0.3),
    "AdamW, amsgrad": lambda: FusedAdamW(0.01, amsgrad=True),
    "SGD": lambda: FusedSGD(schedule(), momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD, no momentum": lambda: FusedSGD(0.05),
    "an average of weights": lambda: FusedSGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.8),
}


def numbers_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets optimizers compute with numbers that are written to the device, on a CPU, too."""
    monkeypatch.setattr(Fused, "_is_the_host", lambda self: False)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_it_trains_as_the_step_through_keras_does(
    make: Callable[[], Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "GPU":
        numbers_as_on_a_gpu(monkeypatch)
    ours, our_history = fitted(make(), on_device=True)
    theirs, their_history = fitted(make(), on_device=False)
    assert ours.on_device
    for name, values in their_history.items():
        assert our_history[name] == pytest.approx(values, rel=1e-5), name
    for a, b in zip(
        ours.variables + ours.optimizer.variables, theirs.variables + theirs.optimizer.variables, strict=True
    ):
        torch.testing.assert_close(a.value, b.value, rtol=1e-4, atol=1e-6, msg=lambda text, a=a: f"{a.path}: {text}")


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_replaying_it_changes_no_bit(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    numbers_as_on_a_gpu(monkeypatch)
    replayed = pretended(monkeypatch)
    plain, plain_history = fitted(make(), on_device=True)
    assert not replayed
    monkeypatch.setattr(NativeModel, "_make_device_step", _recorded(NativeModel._make_device_step))
    ours, our_history = fitted(make(), on_device=True)
    # The first steps of either size run as they are.
    assert replayed == [16] * (2 * 2 - WARM_UP) + [16, 16] + [16, 16, 12]
    assert our_history == plain_history
    for a, b in zip(
        ours.variables + ours.optimizer.variables, plain.variables + plain.optimizer.variables, strict=True
    ):
        assert torch.equal(a.value, b.value), a.path


def _recorded(make: Callable[[NativeModel], Any]) -> Callable[[NativeModel], Any]:
    def made(model: NativeModel) -> Any:
        model._cuda_graph = True
        return make(model)

    return made


def test_other_metrics_are_updated_through_keras() -> None:
    def extra() -> list[keras.metrics.Metric]:
        return [keras.metrics.TopKCategoricalAccuracy(2, name="top_2")]

    _, ours = fitted(FusedSGD(0.05), on_device=True, metrics=extra())
    _, theirs = fitted(FusedSGD(0.05), on_device=False, metrics=extra())
    assert ours["top_2"] == pytest.approx(theirs["top_2"])
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"])


def test_a_loss_of_the_caller_is_used() -> None:
    model = NativeModel(network())
    model.on_device = True
    model.training_loss = lambda targets, logits: 0.0 * logits.sum() + 7.0
    compile_classifier(model, FusedSGD(0.05))
    history = model.fit(IMAGES, TARGETS, batch_size=16, shuffle=False, verbose=0).history
    assert model.on_device
    assert history["loss"] == pytest.approx([7.0])


UNFIT: dict[str, dict[str, Any]] = {
    "another optimizer": {"optimizer": keras.optimizers.Adam},
    "clipped gradients": {"optimizer": lambda: FusedSGD(0.05, clipnorm=0.1)},
    "gradients of several batches": {"optimizer": lambda: FusedSGD(0.05, gradient_accumulation_steps=2)},
    "another loss": {"optimizer": lambda: FusedSGD(0.05), "loss": keras.losses.MeanSquaredError()},
    "smoothing in the loss": {
        "optimizer": lambda: FusedSGD(0.05),
        "loss": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    },
    "a weighted loss": {
        "optimizer": lambda: FusedSGD(0.05),
        "loss": keras.losses.CategoricalCrossentropy(from_logits=True),
        "loss_weights": [2.0],
    },
}


@pytest.mark.parametrize("given", UNFIT.values(), ids=UNFIT.keys())
def test_what_it_cannot_do_is_done_through_keras(given: dict[str, Any]) -> None:
    options = {"loss": keras.losses.CategoricalCrossentropy(from_logits=True), **given}
    results = []
    for on_device in (True, False):
        model = NativeModel(network())
        model.on_device = on_device
        model.compile(**{**options, "optimizer": given["optimizer"]()}, metrics=["accuracy"])
        results.append(model.fit(IMAGES, TARGETS, batch_size=16, epochs=2, shuffle=False, verbose=0).history)
        assert not model.on_device
    assert results[0] == results[1]


def test_weights_with_a_constraint_are_updated_through_keras() -> None:
    inputs = layers.Input((8, 8, 3))
    constrained = layers.Dense(3, kernel_constraint=keras.constraints.UnitNorm())
    model = NativeModel(keras.Model(inputs, constrained(layers.Flatten()(inputs))))
    model.on_device = True
    compile_classifier(model, FusedSGD(0.05))
    model.fit(IMAGES, TARGETS, batch_size=16, shuffle=False, verbose=0)
    assert not model.on_device
    np.testing.assert_allclose(np.linalg.norm(constrained.kernel.numpy(), axis=0), 1.0, rtol=1e-5)


def test_a_batch_that_does_not_fit_is_computed_in_parts() -> None:
    model = NativeModel(network(), split=True)
    model.on_device = True
    compile_classifier(model, FusedSGD(0.05))
    program, most = model.program, []
    assert program is not None

    def small(*tensors: Tensor, training: bool) -> Any:
        most.append(len(tensors[0]))
        if len(tensors[0]) > 8:
            raise torch.OutOfMemoryError("too many")
        return program(*tensors, training=training)

    model._compiled = _Settled(small)  # type: ignore[assignment]
    model.fit(IMAGES[:16], TARGETS[:16], batch_size=16, shuffle=False, verbose=0)
    assert most == [16, 16, 8, 8]
    assert model.parts == 2


class _Settled:
    settled = True

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *tensors: Tensor, training: bool) -> Any:
        return self._run(*tensors, training=training)

    def step_done(self) -> None:
        pass


class TestReplayed:
    def test_a_step_that_cannot_be_recorded_runs_as_it_is(self, caplog: pytest.LogCaptureFixture) -> None:
        tried = []

        def refuse(run: Any, tensors: Any) -> Recording:
            tried.append(1)
            raise RuntimeError("operation not permitted when stream is capturing")

        step = Replayed(lambda x: x + 1, list, lambda: refuse)
        with caplog.at_level(logging.WARNING):
            assert [step(torch.tensor([float(i)])).item() for i in range(WARM_UP + 3)] == [1, 2, 3, 4, 5, 6]
        assert len(tried) == 1
        assert caplog.messages == [
            "a training step could not be recorded (operation not permitted when stream is capturing); "
            "steps run as they are"
        ]

    def test_it_is_recorded_again_where_the_state_has_moved(self) -> None:
        state = {"weight": torch.ones(1)}
        made = []

        def record(run: Any, tensors: Sequence[Tensor]) -> Recording:
            weight, kept = state["weight"], [tensor.clone() for tensor in tensors]  # a recording holds addresses
            output = torch.empty(1)
            made.append(weight)
            return Recording(kept, output, lambda: output.copy_(kept[0] * weight))

        step = Replayed(lambda x: x * state["weight"], lambda: [state["weight"]], lambda: record)
        for _ in range(WARM_UP + 1):
            assert step(torch.tensor([2.0])).item() == 2
        state["weight"].mul_(3)  # in place: the recording sees it
        assert step(torch.tensor([2.0])).item() == 6
        state["weight"] = torch.full((1,), 5.0)
        assert step(torch.tensor([2.0])).item() == 10
        assert len(made) == 2

    def test_two_sizes_are_recorded_and_others_run_as_they_are(self) -> None:
        made: list[int] = []

        def record(run: Any, tensors: Sequence[Tensor]) -> Recording:
            kept, output = [tensor.clone() for tensor in tensors], torch.empty(len(tensors[0]))
            made.append(len(tensors[0]))
            return Recording(kept, output, lambda: output.copy_(run(*kept)))

        step = Replayed(lambda x: 2 * x, list, lambda: record)
        for turn in range(WARM_UP + 2):
            for size in (3, 2, 1):
                assert step(torch.full((size,), float(turn))).tolist() == [2.0 * turn] * size
        assert made == [3, 2]
