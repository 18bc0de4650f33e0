"""What is passed to `kcv.train` beside a configuration: a model, callbacks, metrics and a tracker of one's own."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from interrupted import Configure, assert_same, disturb, stopped_at

import kcv
from kcv.cli import main
from kcv.config import Config
from kcv.errors import ConfigError, DataError, KcvError, UsageError
from kcv.reporting.material import read_history
from kcv.tracking import NoTracker
from kcv.training.callbacks.logging import COLUMNS
from kcv.training.own_model import digest_of
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.record import Record

train = kcv.train


class Recorder(keras.callbacks.Callback):
    """Keeps what it has seen, counts hooks, and draws numbers: all of it would show a step that was seen twice."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.seen: dict[str, Any] = {"began": [], "losses": []}
        self.sums = np.zeros(2)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen["began"].append(epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        self.sums += (batch, float(logs["loss"]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen["losses"].append(logs["val_loss"])
        logs["drawn"] = float(np.random.random()) + self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "seen": self.seen, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.seen, self.sums = state["steps"], state["seen"], state["sums"]


class Silent(keras.callbacks.Callback):
    """Keeps nothing."""


def top2() -> keras.metrics.Metric:
    return keras.metrics.TopKCategoricalAccuracy(2, name="top2")


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


def small_model(size: int = 16, classes: int = 3, **last: Any) -> keras.Model:
    keras.utils.set_random_seed(7)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.1)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(classes, **last)(x), name="mine")


KINDS: dict[str, dict[str, Any]] = {
    "one stage": {"epochs": 3, "train.ema": 0.9},
    "two stages": {"epochs": 4, "model.unfreeze_after": 2, "model.weights": "none"},
}


@pytest.mark.parametrize("kind", ["one stage", pytest.param("two stages", marks=pytest.mark.full)])
def test_a_stateful_callback_and_a_metric_go_on_to_the_bit(kind: str, configure: Configure, tmp_path: Path) -> None:
    common = {"train.checkpoint_seconds": 0, "augment.crop_padding": 1, "train.monitor": "val_top2", **KINDS[kind]}
    undisturbed = Recorder()
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common), callbacks=[undisturbed], metrics=[top2()])
    config = configure(output_dir=str(tmp_path / "cut"), **common)
    for place in ((0, 3), (1, 0), (2, 6)):  # in the middle, at the beginning, before the validation
        with stopped_at(*place), pytest.raises(KeyboardInterrupt):
            if place == (0, 3):
                train(config, callbacks=[Recorder()], metrics=[top2()])
            else:
                train(resume=tmp_path / "cut", callbacks=[Recorder()], metrics=[top2()])
        disturb()
    last = Recorder()
    assert_same(whole, train(resume=tmp_path / "cut", callbacks=[last], metrics=[top2()]))
    assert (last.steps, last.seen) == (undisturbed.steps, undisturbed.seen)
    np.testing.assert_array_equal(last.sums, undisturbed.sums)
    assert last.steps == 6 * KINDS[kind]["epochs"]


@pytest.mark.full
def test_figures_of_metrics_and_callbacks_are_written_shown_tracked_and_drawn(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Kept(NoTracker):
        def __init__(self) -> None:
            self.seen: list[tuple[int, dict[str, float]]] = []

        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            self.seen.append((step, dict(metrics)))

    with caplog.at_level(logging.INFO, logger="kcv"):
        run = train(
            configure(**{"train.plots": True}), callbacks=[Recorder()], metrics=[top2()], tracker=(kept := Kept())
        )
    rows = rows_of(run.directory)
    assert list(rows[0]) == [*COLUMNS, "top2", "val_top2", "drawn"]
    assert [float(row["drawn"]) // 6 for row in rows] == [1, 2]
    assert all(0 <= float(row["val_accuracy"]) <= float(row["val_top2"]) <= 1 for row in rows)
    assert read_history(run.directory / "history.csv") == run.history
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch ")]
    shown = [
        f"  top2 {row['top2']:.4f}  val_top2 {row['val_top2']:.4f}  drawn {row['drawn']:.4f}" for row in run.history
    ]
    assert [text in line for text, line in zip(shown, lines, strict=True)] == [True, True]
    steps = [figures for step, figures in kept.seen if "val_top2" in figures]
    assert steps == [{key: value for key, value in row.items() if key != "epoch"} for row in run.history]
    drawing = (run.directory / "evaluation" / "learning_curves.svg").read_text()
    assert ">top2</text>" in drawing and ">drawn</text>" in drawing
    assert "resumable" not in caplog.text


@pytest.mark.full
def test_a_metric_chooses_the_best_epoch_by_its_own_direction(configure: Configure) -> None:
    class Falling(keras.metrics.Metric):
        """3, 2, 1, ... at the end of an epoch's training, and as much of its validation."""

        def __init__(self, direction: str) -> None:
            super().__init__(name="falling")
            self._direction = direction
            self.left = self.add_weight(name="left", initializer=keras.initializers.Constant(9.0))

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            self.left.assign(self.left - 1)

        def result(self) -> Any:
            return self.left

        def reset_state(self) -> None:
            pass

    for direction, best in (("down", 3), ("up", 1)):
        config = configure(epochs=3, output_dir=None, **{"train.monitor": "val_falling", "train.calibrate": False})
        assert train(config, metrics=[Falling(direction)]).best_epoch == best
    config = configure(epochs=3, output_dir=None, **{"train.monitor": "val_falling", "train.patience": 1})
    assert len(train(config, metrics=[Falling("up")]).history) == 2
    with pytest.raises(ConfigError, match=r"train\.monitor: falling does not say whether higher is better"):
        train(config, metrics=[Falling(None)])  # type: ignore[arg-type]


@pytest.mark.full
def test_a_callback_without_state_makes_a_run_that_says_so(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure(**{"train.checkpoint_seconds": 0})
    told = "not bit for bit: Silent keeps no state (no state_dict and load_state_dict)"
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(config, callbacks=[Silent(), Recorder()])
    assert f"resumable  {told}" in caplog.text
    folder = tmp_path / "run"
    assert json.loads((folder / "environment.json").read_text())["resumable"] == told
    record = Record.read(folder / "resume" / "run.json")
    assert (record.callbacks, record.resumable) == (["Silent", "Recorder"], told)
    again = r"--resume: the run began with callbacks=\[Silent, Recorder\]; pass the same to kcv.train"
    for callbacks in ((), (Silent(),), (Recorder(), Silent())):
        with pytest.raises(UsageError, match=again):
            train(resume=folder, callbacks=callbacks)
    caplog.clear()
    last = Recorder()
    train(resume=folder, callbacks=[Silent(), last])
    assert f"the run goes on, but {told}" in caplog.text
    assert last.steps == 12


@pytest.mark.full
def test_the_command_line_does_not_go_on_without_what_was_passed(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="kcv"), stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(configure(**{"train.checkpoint_seconds": 0}), callbacks=[Recorder()], metrics=[top2()])
    assert f"to go on: kcv.train(resume={str(tmp_path / 'run')!r}, ...) with what was passed to it" in caplog.text
    assert main(["train", f"--resume={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "callbacks=[Recorder]; pass the same to kcv.train" in error
    with pytest.raises(UsageError, match=r"the run began with metrics=\[top2\]"):
        train(resume=tmp_path / "run", callbacks=[Recorder()])
    with pytest.raises(UsageError, match=r"the run began with metrics=\[top2\]"):
        train(resume=tmp_path / "run", callbacks=[Recorder()], metrics=[keras.metrics.AUC(from_logits=True)])


def test_a_run_that_began_without_takes_none_on(configure: Configure, tmp_path: Path) -> None:
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(configure(**{"train.checkpoint_seconds": 0}))
    for given in ({"callbacks": [Recorder()]}, {"metrics": [top2()]}, {"model": small_model()}):
        with pytest.raises(UsageError, match=r"--resume: the run began without .*; pass none"):
            train(resume=tmp_path / "run", **given)


@pytest.fixture
def stopped(configure: Configure, tmp_path: Path) -> Path:
    """The checkpoints of a run that a callback took part in."""
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(configure(**{"train.checkpoint_seconds": 0}), callbacks=[Recorder()])
    return tmp_path / "run"


def spoilt_name(plain: dict[str, Any]) -> None:
    plain["callbacks"]["user"][0]["name"] = "os.system"


def spoilt_array(plain: dict[str, Any]) -> None:
    plain["callbacks"]["user"][0]["state"]["sums"] = {"__array__": 7}


def spoilt_twice(plain: dict[str, Any]) -> None:
    state = plain["callbacks"]["user"][0]["state"]
    state["steps"] = state["sums"]


def spoilt_size(plain: dict[str, Any]) -> None:
    plain["callbacks"]["user"][0]["state"]["steps"] = list(range(200_000))


def spoilt_kind(plain: dict[str, Any]) -> None:
    plain["callbacks"]["user"][0]["state"] = [1]


def spoilt_more(plain: dict[str, Any]) -> None:
    plain["callbacks"]["user"].append({"name": "Recorder", "state": {}})


@pytest.mark.full
@pytest.mark.parametrize(
    "spoil", [spoilt_name, spoilt_array, spoilt_twice, spoilt_size, spoilt_kind, spoilt_more], ids=lambda s: s.__name__
)
def test_a_checkpoint_of_other_callbacks_or_odd_states_is_not_used(
    spoil: Callable[[dict[str, Any]], None], stopped: Path
) -> None:
    store = CheckpointStore(stopped / "resume")
    state = store.newest()
    assert state is not None
    spoil(dict(state.plain))  # its dicts are the state's
    store.clear()
    CheckpointStore(stopped / "resume").save(state)
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        train(resume=stopped, callbacks=[Recorder()])


class Keeping(keras.callbacks.Callback):
    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def test_states_come_back_as_they_were() -> None:
    from made_states import made_state

    from kcv.training.resume.user_state import UserState

    state = {
        "text": "ä\n", "numbers": [1, -2.5, True, None, 2**80], "nested": {"a": {"b": [{}]}},
        "arrays": [np.arange(6, dtype=np.int16).reshape(2, 3), np.array(1.5), np.zeros((0, 2), bool)],
        "tensor": torch.arange(3.0)[::2], "scalar": np.float32(0.5),
    }  # fmt: skip
    kept, found = Keeping(state), Keeping(None)
    captured = UserState([Keeping({}), kept, Silent()]).add_to(made_state())
    state["arrays"][0][:] = 0  # type: ignore[index]  # what is captured is a copy
    UserState([Keeping({}), found, Silent()]).load_from(captured)
    assert found.state["text"] == "ä\n" and found.state["numbers"] == [1, -2.5, True, None, 2**80]
    assert found.state["nested"] == {"a": {"b": [{}]}} and found.state["scalar"] == 0.5
    arrays = found.state["arrays"]
    np.testing.assert_array_equal(arrays[0], [[0, 1, 2], [3, 4, 5]])
    assert [array.dtype for array in arrays] == [np.int16, np.float64, np.bool_]
    assert [array.shape for array in arrays] == [(2, 3), (), (0, 2)]
    np.testing.assert_array_equal(found.state["tensor"], [0.0, 2.0])


DEEP: Any = {}
for _ in range(60):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "state_dict of Keeping gives a list, not a dict"),
        ({"a": {1, 2}}, "the state of Keeping holds a set at ['a'], allowed: plain values and arrays of numbers"),
        ({"a": [object()]}, "holds a object at ['a'][0]"),
        ({1: 2}, "holds the key 1, allowed: text keys"),
        ({"__array__": 2}, "holds the key '__array__'"),
        ({"a": np.array(["x"])}, "holds an array of <U1 at ['a']"),
        ({"a": np.array([object()])}, "holds an array of object at ['a']"),
        ({"a": 1 << 2000}, "holds a number of too many digits at ['a']"),
        ({"a": list(range(100_001))}, "keeps more than 100,000 values"),
        ({"a": np.zeros(9 * 2**20)}, "keeps more than 64 MB"),
        (DEEP, "50 levels deep"),
    ],
)
def test_a_state_that_no_checkpoint_can_hold_is_refused_before_there_is_a_run(
    state: Any, message: str, configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        train(configure(), callbacks=[Keeping(state)])
    assert str(caught.value).startswith("callbacks: ") and message in str(caught.value)
    assert not (tmp_path / "run").exists()


class Half(keras.callbacks.Callback):
    def state_dict(self) -> dict[str, Any]:
        return {}


class Vector(keras.metrics.CategoricalAccuracy):
    def result(self) -> Any:
        return keras.ops.zeros(3)


class Broken(keras.metrics.Metric):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        raise RuntimeError("no such thing\nand more")


class NoFinish:
    location = None


ALLOWED_MAPS = ", allowed: (None, size, size, 3) to (None, classes), one tensor each"


def functional(outputs: Callable[[Any], Any], shape: tuple[int | None, ...] = (16, 16, 3)) -> keras.Model:
    inputs = keras.Input(shape)
    return keras.Model(inputs, outputs(inputs))


def flat(x: Any) -> Any:
    return keras.layers.GlobalAveragePooling2D()(x)


def dense() -> keras.layers.Layer:
    return keras.layers.Dense(3)


def foreign() -> keras.layers.Layer:
    return keras.layers.Lambda(lambda y: y, output_shape=(16, 16, 3))


def cut_off() -> keras.Model:
    """A model in which nothing flows back through one weight: its output is an integer on the way."""

    def cut(x: Any) -> Any:
        whole = keras.layers.Identity(dtype="int32")(keras.layers.Conv2D(4, 3)(x))
        return dense()(flat(keras.layers.Rescaling(1.0)(whole)))

    return functional(cut)


def compiled() -> keras.Model:
    model = small_model()
    model.compile(loss="mse")
    return model


def frozen() -> keras.Model:
    model = small_model()
    model.trainable = False
    return model


AUC = keras.metrics.AUC
WRONG: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a callback that is none": (
        lambda: {"callbacks": [3]},
        "callbacks: received a int, allowed: a keras.callbacks.Callback",
    ),
    "a class": (lambda: {"callbacks": [Silent]}, "callbacks: received the class Silent, allowed:"),
    "half a state": (lambda: {"callbacks": [Half()]}, "callbacks: Half has state_dict, but not load_state_dict"),
    "twice the same": (lambda: {"callbacks": [one := Silent(), one]}, "callbacks: the same one is there twice"),
    "a metric's name": (
        lambda: {"metrics": ["auc"]},
        "metrics: received a str, allowed: a keras.metrics.Metric, not its name",
    ),
    "a name that is taken": (
        lambda: {"metrics": [AUC(name="accuracy")]},
        "metrics: 'accuracy' is the name of another figure",
    ),
    "a name of validation": (lambda: {"metrics": [AUC(name="val_x")]}, "metrics: the name 'val_x' is not allowed"),
    "a name for a sheet": (lambda: {"metrics": [AUC(name="=1+1")]}, "metrics: the name '=1+1' is not allowed"),
    "two of a name": (lambda: {"metrics": [top2(), top2()]}, "metrics: 'top2' is the name of another figure"),
    "several numbers": (lambda: {"metrics": [Vector(name="v")]}, "metrics: v gives 3 numbers, allowed: one"),
    "a metric that fails": (
        lambda: {"metrics": [Broken(name="b")]},
        "metrics: b cannot be computed from one-hot targets and logits: no such thing",
    ),
    "no tracker": (lambda: {"tracker": NoFinish()}, "tracker: a NoFinish has no "),
    "no model": (lambda: {"model": "resnet50"}, "model: received a str, allowed: a functional keras.Model"),
    "a sequence": (
        lambda: {"model": keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), dense()])},
        "model: is a Sequential, allowed: a functional keras.Model; keras.Model(model.inputs, model.outputs) is one",
    ),
    "compiled": (lambda: {"model": compiled()}, "model: is compiled"),
    "any size": (lambda: {"model": functional(lambda x: dense()(flat(x)), (None, None, 3))}, ALLOWED_MAPS),
    "grey": (lambda: {"model": functional(lambda x: dense()(flat(x)), (16, 16, 1))}, ALLOWED_MAPS),
    "wide": (lambda: {"model": functional(lambda x: dense()(flat(x)), (16, 24, 3))}, ALLOWED_MAPS),
    "two outputs": (lambda: {"model": functional(lambda x: [dense()(flat(x)) for _ in "ab"])}, ALLOWED_MAPS),
    "maps": (lambda: {"model": functional(lambda x: dense()(x))}, ALLOWED_MAPS),
    "one logit": (lambda: {"model": small_model(classes=1)}, "model: gives one logit, allowed: one for each of two"),
    "softmax": (
        lambda: {"model": small_model(activation="softmax")},
        "gives probabilities, allowed: logits (no softmax)",
    ),
    "half precision": (
        lambda: {"model": small_model(dtype="float16")},
        "model: gives logits in float16; build its last layer with dtype='float32'",
    ),
    "code": (
        lambda: {"model": functional(lambda x: dense()(flat(foreign()(x))))},
        "model: holds Lambda from keras.layers, which kcv does not open: only Keras' own layers; its file could not",
    ),
    "frozen": (lambda: {"model": frozen()}, "model: has no trainable weights"),
    "no gradient": (lambda: {"model": cut_off()}, "gets no gradient"),
    "other classes": (
        lambda: {"model": small_model(classes=4)},
        "model: gives 4 logits, but the data have 3 classes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_one_line_before_there_is_a_run(name: str, configure: Configure, tmp_path: Path) -> None:
    given, message = WRONG[name]
    with pytest.raises(UsageError) as caught:
        train(configure(**{"model.width": 1.0}), **given())
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_monitor_that_nothing_gives_is_refused(configure: Configure, tmp_path: Path) -> None:
    config = configure(**{"train.monitor": "val_top3"})
    with pytest.raises(ConfigError, match=r"train\.monitor: received 'val_top3', allowed: val_accuracy, val_loss\."):
        train(config)
    with pytest.raises(ConfigError, match=r"val_loss, val_top2\. Did you mean 'val_top2'\?"):
        train(config, metrics=[top2()])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"data.image_size": 20}, "data.image_size: received 20, but the model takes 16."),
        ({"precision": "mixed_bfloat16"}, "precision: received 'mixed_bfloat16', but the model computes in float32."),
        ({"model.width": 0.5}, "model.width: is for kcv's own networks, not for a model that is passed."),
        ({"optim.layer_decay": 0.5}, "optim.layer_decay: is for kcv's own networks, not for a model that is passed."),
    ],
)
def test_a_configuration_that_does_not_fit_a_model_is_refused(
    options: dict[str, Any], problem: str, images: Path, tmp_path: Path
) -> None:
    config = Config.load(data=str(images), output_dir=str(tmp_path / "run"), tracking="none", device="cpu", **options)
    with pytest.raises(ConfigError) as caught:
        train(config, model=small_model())
    assert caught.value.problems == [problem]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def plain_config(images: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a function that makes a configuration for a model of one's own."""

    def make(**options: Any) -> Config:
        values = {"data": str(images), "epochs": 2, "batch_size": 16, "lr": 3e-2, "tracking": "none", "device": "cpu",
                  "output_dir": str(tmp_path / "run"), "train.plots": False}  # fmt: skip
        return Config.load(**{**values, **options})

    return make


def test_a_model_of_ones_own_is_trained_kept_and_continued(
    plain_config: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = {"train.checkpoint_seconds": 0}
    mine = small_model()
    before = [weight.copy() for weight in mine.get_weights()]
    whole = train(plain_config(output_dir=str(tmp_path / "whole"), **common), model=mine)
    assert "runs through Keras" not in caplog.text  # it has a native form
    kept = kcv.load_model(whole.model_path)
    assert kept.info.model_name == "mine (own)" and kept.image_size == 16
    assert all(np.array_equal(a, b) for a, b in zip(kept.keras_model.get_weights(), mine.get_weights(), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(before[:2], mine.get_weights()[:2], strict=True))
    assert kcv.evaluate(whole.model_path, plots=False).metrics == whole.metrics
    saved = Config.load(whole.directory / "config.yaml")
    assert (saved.data.image_size, saved.precision) == (16, "float32")

    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(plain_config(output_dir=str(tmp_path / "cut"), **common), model=small_model())
    disturb()
    with pytest.raises(UsageError, match=r"began with a model that was passed to kcv.train; pass it again"):
        train(resume=tmp_path / "cut")
    other = functional(lambda x: keras.layers.Dense(3)(flat(x)))
    with pytest.raises(UsageError, match="began with a model of another structure"):
        train(resume=tmp_path / "cut", model=other)
    again = small_model()
    again.set_weights([0 * weight for weight in again.get_weights()])  # the checkpoint's are taken
    assert_same(whole, train(resume=tmp_path / "cut", model=again))


def test_layers_that_were_frozen_stay_frozen(plain_config: Callable[..., Config]) -> None:
    inner = functional(lambda x: keras.layers.Conv2D(4, 3, name="b")(keras.layers.Conv2D(4, 3, name="a")(x)))
    inner.get_layer("a").trainable = False
    model = functional(lambda x: keras.layers.Dense(3)(flat(inner(x))))
    kernel = np.asarray(inner.get_layer("a").kernel.value.detach()).copy()
    run = train(plain_config(epochs=1), model=model)
    np.testing.assert_array_equal(kernel, inner.get_layer("a").kernel.value.detach().numpy())
    assert kcv.load_model(run.model_path).info.parameters["trainable"] == model.count_params() - 4 * (27 + 1)


def test_a_digest_is_of_structure_and_not_of_names() -> None:
    assert digest_of(small_model()) == digest_of(small_model())
    assert digest_of(small_model()) != digest_of(small_model(classes=4))
    assert digest_of(small_model()) != digest_of(small_model(activation="relu"))


def test_a_tracker_of_ones_own_takes_the_place_of_the_configured_one(configure: Configure, tmp_path: Path) -> None:
    class Kept(NoTracker):
        location = "here"

        def __init__(self) -> None:
            self.calls: list[str] = []

        def start(self, run_name: str, params: Any, tags: Any, run_id: str | None = None) -> None:
            self.calls.append(f"start {run_name}, {params['train.epochs']} epochs")

        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            self.calls.append(f"epoch {step}" if "learning_rate" in metrics else "end")

        def finish(self, status: Any = "FINISHED") -> None:
            self.calls.append(status)

    config = configure(tracking=f"sqlite:///{tmp_path / 'mlflow.db'}", **{"train.checkpoint_seconds": 0})
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(config, tracker=(first := Kept()))
    assert first.calls == ["start run, 2 epochs", "epoch 1", "KILLED"]
    run = train(resume=tmp_path / "run", tracker=(second := Kept()))
    assert second.calls == ["start run, 2 epochs", "epoch 2", "end", "FINISHED"]
    assert run.tracking == "here"
    assert not (tmp_path / "mlflow.db").exists()


def test_an_error_of_a_callback_is_the_callers_own(configure: Configure) -> None:
    class Failing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        train(configure(), callbacks=[Failing()])
    assert not isinstance(caught.value, KcvError)
