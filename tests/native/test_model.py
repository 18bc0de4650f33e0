from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers

from kcv.errors import DeviceError
from kcv.native.logs import LazyCallbackList
from kcv.native.model import NativeModel
from kcv.native.optimizers import FusedAdamW
from kcv.native.precision import precision_scope

CLASSES = 3


def core(**norm: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    # No bias: before BatchNormalization its gradient is rounding noise, which Adam would walk along.
    x = layers.Conv2D(6, 3, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    x = layers.BatchNormalization(**norm)(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(layers.Flatten()(layers.ReLU()(x))), name="small")


def data(count: int = 32) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    images = rng.normal(size=(count, 8, 8, 3)).astype(np.float32) + labels[:, None, None, None]
    return images, np.eye(CLASSES, dtype=np.float32)[labels]


def compiled(model: keras.Model, optimizer: Any) -> keras.Model:
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy"), keras.metrics.F1Score(name="f1")],
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="weighted")],
        jit_compile=False,
    )
    return model


def pair() -> tuple[keras.Model, keras.Model]:
    """The same model twice: run natively, and through Keras."""
    stock = core()
    return (
        compiled(NativeModel(core()), FusedAdamW(0.01)),
        compiled(keras.Model(stock.inputs, stock.outputs), keras.optimizers.AdamW(0.01)),
    )


FIT: dict[str, dict[str, Any]] = {
    "plain": {},
    "class weights": {"class_weight": {0: 1.0, 1: 5.0, 2: 0.1}},
    "sample weights": {"sample_weight": np.linspace(0, 2, 32).astype(np.float32)},
    "validation": {"validation_split": 0.25},
}


@pytest.mark.parametrize("options", FIT.values(), ids=FIT.keys())
def test_fit_gives_the_history_and_the_weights_that_keras_gives(options: dict[str, Any]) -> None:
    images, labels = data()
    native, stock = pair()
    histories = [
        model.fit(images, labels, batch_size=7, epochs=3, shuffle=False, verbose=0, **options).history
        for model in (native, stock)
    ]
    assert histories[0].keys() == histories[1].keys()
    for name, theirs in histories[1].items():
        np.testing.assert_allclose(histories[0][name], theirs, rtol=2e-3, atol=1e-4, err_msg=name)
    for ours, other in zip(native.core.weights, stock.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), other.numpy(), rtol=1e-2, atol=1e-3)


def test_evaluate_and_predict_agree_with_keras() -> None:
    images, labels = data()
    native, stock = pair()
    np.testing.assert_allclose(native.predict(images, verbose=0), stock.predict(images, verbose=0), atol=1e-5)
    ours = native.evaluate(images, labels, verbose=0, return_dict=True)
    theirs = stock.evaluate(images, labels, verbose=0, return_dict=True)
    assert ours.keys() == theirs.keys()
    for name in ("loss", "accuracy", "f1", "weighted"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)


def test_callbacks_see_the_same_numbers_with_and_without_lazy_logs() -> None:
    seen: list[dict[str, float]] = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            assert logs is not None
            seen.append({name: logs[name] for name in ("loss", "accuracy")})

    images, labels = data(24)
    for lazy in (False, True):
        model = compiled(NativeModel(core()), FusedAdamW(0.01))
        callbacks: Any = [Look()]
        if lazy:
            callbacks = LazyCallbackList(callbacks, model=model, epochs=1, steps=3)
        model.fit(images, labels, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
        assert set(model.history.history) == {"loss", "accuracy", "f1", "weighted"}
    assert len(seen) == 6
    for before, after in zip(seen[:3], seen[3:], strict=True):
        assert before == pytest.approx(after, rel=1e-5)


def test_a_step_whose_logs_nobody_reads_computes_no_metric() -> None:
    images, labels = data(24)
    model = compiled(NativeModel(core()), FusedAdamW(0.01))
    read = 0
    original = model.get_metrics_result

    def counting() -> Any:
        nonlocal read
        read += 1
        return original()

    model.get_metrics_result = counting
    callbacks = LazyCallbackList([], model=model, epochs=1, steps=3)
    model.fit(images, labels, batch_size=8, epochs=1, verbose=0, callbacks=callbacks)
    # Once for the names, when the metrics are built; once in the first step; once at the end of the epoch.
    assert read <= 3


def test_stock_callbacks_work_on_it(tmp_path: Path) -> None:
    images, labels = data()
    model = compiled(NativeModel(core()), FusedAdamW(0.01))
    callbacks = [
        keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "best.weights.h5"), save_weights_only=True),
        keras.callbacks.TerminateOnNaN(),
    ]
    model.fit(images, labels, batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
    assert (tmp_path / "log.csv").read_text().count("\n") == 4
    assert (tmp_path / "best.weights.h5").exists()


def test_frozen_layers_stay_as_they_are() -> None:
    images, labels = data()
    base = core()
    for layer in base.layers[:-1]:
        layer.trainable = False
    frozen = [weight.numpy().copy() for layer in base.layers[:-1] for weight in layer.weights]
    head = base.layers[-1].get_weights()[0]
    model = compiled(NativeModel(base), FusedAdamW(0.01))
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    for before, after in zip(frozen, [w for layer in base.layers[:-1] for w in layer.weights], strict=True):
        np.testing.assert_array_equal(before, after.numpy())
    assert not np.array_equal(head, base.layers[-1].get_weights()[0])


def test_thawing_between_two_fits_is_noticed() -> None:
    images, labels = data()
    base = core()
    base.layers[1].trainable = base.layers[2].trainable = False
    model = compiled(NativeModel(base), FusedAdamW(0.01))
    model.fit(images, labels, epochs=1, verbose=0)
    before = [weight.numpy().copy() for weight in base.weights]
    base.layers[1].trainable = base.layers[2].trainable = True
    compiled(model, FusedAdamW(0.01)).fit(images, labels, epochs=1, verbose=0)
    assert not any(np.array_equal(a, b.numpy()) for a, b in zip(before, base.weights, strict=True))


def test_weights_loaded_later_are_used() -> None:
    images, _ = data()
    native = NativeModel(core())
    other = core()
    rng = np.random.default_rng(0)
    other.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in other.get_weights()])
    native.core.set_weights(other.get_weights())
    compiled(native, FusedAdamW(0.01))
    np.testing.assert_allclose(
        native.predict(images, verbose=0), other.predict(images, verbose=0), rtol=1e-4, atol=1e-4
    )


def test_what_is_called_through_keras_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.UpSampling2D(2, name="grow")(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)), name="growing")
    with caplog.at_level(logging.WARNING, "kcv"):
        native = compiled(NativeModel(model), FusedAdamW(0.01))
        images, labels = data()
        native.fit(images, labels, epochs=2, verbose=0)
    assert native.program is not None
    (record,) = caplog.records
    assert "growing" in record.getMessage()
    assert "grow" in record.getMessage().split("no native form of ")[1]


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.inner = core()
        self.built = True

    @property
    def inputs(self) -> Any:
        return self.inner.inputs

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.inner(x, training=training)


def masked() -> keras.Model:
    inputs = keras.Input((8, 3))
    x = layers.GlobalAveragePooling1D()(layers.Masking(name="gaps")(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(x), name="masked")


FALLBACKS = {"no graph": (Subclassed, "subclassed"), "masks": (masked, "gaps")}


@pytest.mark.parametrize(("make", "named"), FALLBACKS.values(), ids=FALLBACKS.keys())
def test_what_cannot_be_lowered_runs_through_keras_with_one_warning(
    make: Any, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "kcv"):
        model = compiled(NativeModel(make()), FusedAdamW(0.01))
    (record,) = caplog.records
    assert named in record.getMessage()
    assert "slower" in record.getMessage()
    assert model.program is None
    images, labels = data()
    images = images[:, :, 0] if named == "gaps" else images
    history = model.fit(images, labels, batch_size=8, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("damage", ["fails", "differs"])
def test_a_native_form_that_fails_or_differs_is_not_used(
    damage: str, policy: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        if damage == "fails":
            raise RuntimeError("out of luck")
        return x * 1.5

    from kcv.native.layers import activations

    monkeypatch.setitem(activations._FUNCTIONS, keras.activations.silu, broken)
    with precision_scope(policy):
        inputs = keras.Input((8, 8, 3))
        x = layers.Activation("silu", name="swish")(layers.Conv2D(4, 3)(inputs))
        model = keras.Model(inputs, layers.Dense(CLASSES, dtype="float32")(layers.Flatten()(x)), name="odd")
    with caplog.at_level(logging.WARNING, "kcv"):
        native = NativeModel(model)
    assert native.program is None
    (record,) = caplog.records
    assert "swish" in record.getMessage()


def test_a_native_form_that_fails_only_in_training_is_replaced_on_the_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("out of luck")
        return torch.nn.functional.silu(x)

    from kcv.native.layers import activations

    monkeypatch.setitem(activations._FUNCTIONS, keras.activations.silu, broken)
    inputs = keras.Input((8, 8, 3))
    x = layers.Activation("silu", name="swish")(layers.Conv2D(4, 3)(inputs))
    native = compiled(NativeModel(keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))), FusedAdamW(0.01))
    images, labels = data()
    with caplog.at_level(logging.WARNING, "kcv"):
        history = native.fit(images, labels, batch_size=8, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    (record,) = caplog.records
    assert "layer swish failed: out of luck" in record.getMessage()


def test_a_model_that_has_diverged_still_runs_natively() -> None:
    model = core()
    model.get_layer("logits").bias.assign([np.nan, np.inf, 0])
    assert NativeModel(model).program is not None


def test_the_check_leaves_the_state_alone() -> None:
    model = core()
    before = [weight.numpy().copy() for weight in model.weights]
    state = torch.get_rng_state()
    NativeModel(model)
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_the_model_file_of_a_natively_trained_model_is_plain_keras(tmp_path: Path) -> None:
    images, labels = data()
    native = compiled(NativeModel(core()), FusedAdamW(0.01))
    native.fit(images, labels, epochs=1, verbose=0)
    native.core.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(again.predict(images, verbose=0), native.predict(images, verbose=0), atol=1e-5)


class Small:
    """Stands for a device with memory for so many images."""

    def __init__(self, program: Any, most: int) -> None:
        self.program = program
        self.most = most
        self.sizes: list[int] = []

    def __call__(self, tensor: torch.Tensor, *, training: bool) -> Any:
        self.sizes.append(len(tensor))
        if len(tensor) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.program(tensor, training=training)


def plain() -> keras.Model:
    """A model without BatchNormalization, whose parts are therefore the whole."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.Conv2D(6, 3, kernel_regularizer=keras.regularizers.L2(0.01))(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def test_a_batch_that_does_not_fit_is_computed_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    images, labels = data(30)
    whole = compiled(NativeModel(plain()), FusedAdamW(0.01))
    split = compiled(NativeModel(plain(), split=True), FusedAdamW(0.01))
    split.program = small = Small(split.program, 8)
    histories = [model.fit(images, labels, batch_size=30, epochs=3, verbose=0).history for model in (whole, split)]
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(split.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert small.sizes[:4] == [30, 15, 8, 8]
    assert small.sizes.count(30) == small.sizes.count(15) == 1  # it is tried once
    assert "a batch of 30 is computed in parts of 8" in caplog.text


def test_a_batch_that_does_not_fit_names_one_that_does() -> None:
    images, labels = data(32)
    model = compiled(NativeModel(plain()), FusedAdamW(0.01))
    model.program = Small(model.program, 8)
    with pytest.raises(DeviceError, match=r"batch_size=32 does not fit into the device's memory, 8 does"):
        model.fit(images, labels, batch_size=32, verbose=0)
    model.program = Small(model.program.program, 0)
    with pytest.raises(DeviceError, match="a single image does not fit"):
        model.fit(images, labels, batch_size=32, verbose=0)
