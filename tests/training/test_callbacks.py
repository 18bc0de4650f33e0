"""Each callback on its own, with a clock and a model of the test's making."""

import csv
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest

from kcv.errors import KcvError

LOGS = {
    "loss": 0.5,
    "accuracy": 0.8,
    "val_loss": 0.6,
    "val_accuracy": 0.75,
    "learning_rate": 1e-3,
    "seconds": 12.0,
    "images_per_second": 300.0,
}


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeCore:
    """Stands for the model: weights that the test sets."""

    def __init__(self) -> None:
        self.weights = [np.zeros(2)]

    def get_weights(self):
        return [weight.copy() for weight in self.weights]

    def set_weights(self, weights):
        self.weights = weights


def test_the_clock_sets_the_epoch_and_leaves_validation_out_of_the_rate():
    from kcv.training.callbacks.logging import EpochTimer

    epochs, clock = [], Clock()
    callback = EpochTimer(SimpleNamespace(set_epoch=epochs.append, images=range(600)), clock=clock)
    callback.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.25)))
    callback.on_epoch_begin(3)
    clock.now += 4
    callback.on_test_begin()
    clock.now += 1
    logs = {}
    callback.on_epoch_end(3, logs)
    assert epochs == [3]
    assert logs == {"learning_rate": 0.25, "seconds": 5.0, "images_per_second": 150.0}


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("val_accuracy", [0.5, 0.7, 0.7, 0.6], 3),
        ("val_loss", [0.5, 0.3, 0.4, 0.2], 4),
        ("val_accuracy", [math.nan, 0.1], 2),
    ],
)
def test_the_best_epoch_is_kept_saved_and_restored(monitor, values, best):
    from kcv.training.callbacks.control import BestModel

    core, saved = FakeCore(), []
    callback = BestModel(core, monitor, saved.append)
    for epoch, value in enumerate(values):
        core.weights = [np.full(2, float(epoch + 1))]
        callback.on_epoch_end(epoch, {monitor: value})
    callback.restore()
    assert callback.best_epoch == best == saved[-1]
    np.testing.assert_array_equal(core.weights[0], best)


@pytest.mark.parametrize("worst", [0.1, math.nan])
def test_the_last_epoch_is_kept_if_that_is_wanted(worst):
    from kcv.training.callbacks.control import BestModel

    saved = []
    callback = BestModel(FakeCore(), "val_f1", saved.append, keep="last", higher=True)
    for epoch, value in enumerate((0.5, 0.9, worst)):
        callback._kept_model.weights = [np.full(2, float(epoch + 1))]
        callback.on_epoch_end(epoch, {"val_f1": value})
        callback.load_state_dict(json.loads(json.dumps(callback.state_dict(), allow_nan=False)))
    assert (callback.best_epoch, saved) == (3, [1, 2, 3])
    np.testing.assert_array_equal(callback.weights[0], 3)


# Accuracy and loss of each epoch, the best one by accuracy, and the one by loss.
TIES = [
    ([(0.9, 0.4), (0.9, 0.3), (0.9, 0.35)], 2, 2),
    ([(0.9, 0.3), (0.9, 0.3), (0.8, 0.1)], 2, 3),
    ([(0.9, 0.3), (0.9, math.nan), (0.9, math.inf)], 1, 1),
    ([(0.8, 0.1), (0.9, 5.0), (0.9, 7.0)], 2, 1),
]


def rows_of(figures):
    return [
        {**LOGS, "epoch": epoch, "val_accuracy": accuracy, "val_loss": loss}
        for epoch, (accuracy, loss) in enumerate(figures, start=1)
    ]


@pytest.mark.parametrize(("figures", "by_accuracy", "by_loss"), TIES)
def test_of_equal_epochs_the_lower_loss_and_then_the_later_one_is_kept(figures, by_accuracy, by_loss):
    from kcv.reporting.plots.learning import _best
    from kcv.training.callbacks.control import BestModel

    for monitor, best in (("val_accuracy", by_accuracy), ("val_loss", by_loss)):
        callback, again = (BestModel(FakeCore(), monitor, lambda epoch: None) for _ in range(2))
        for epoch, logs in enumerate(rows_of(figures)):
            callback.on_epoch_end(epoch, logs)
            again.load_state_dict(json.loads(json.dumps(again.state_dict(), allow_nan=False)))
            again.on_epoch_end(epoch, logs)
        assert callback.best_epoch == best == again.best_epoch
    assert _best(rows_of(figures))["epoch"] == by_accuracy


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(
    ("monitor", "figures", "stops"),
    [
        ("val_accuracy", [(0.9, 0.4), (0.9, 0.3), (0.9, 0.2), (0.8, 0.1), (0.7, 0.1)], 5),  # the loss still fell
        ("val_accuracy", [(0.9, 0.4), (0.9, 0.4), (0.9, 0.4)], 3),  # it stands still
        ("val_loss", [(0.1, 0.4), (0.2, 0.5), (0.3, 0.6)], 3),
        ("val_loss", [(0.1, 0.4), (0.1, 0.3), (0.1, 0.2)], None),
    ],
)
def test_patience_compares_as_the_best_model_does(monitor, figures, stops, resumed):
    from kcv.training.callbacks.control import EarlyStopping

    callback = EarlyStopping(monitor, 2)
    stopped = None
    for epoch, logs in enumerate(rows_of(figures)):
        if resumed and epoch:
            state, callback = json.loads(json.dumps(callback.state_dict(), allow_nan=False)), EarlyStopping(monitor, 2)
            callback.load_state_dict(state)
        callback.set_model(SimpleNamespace(stop_training=False))
        callback.on_epoch_end(epoch, logs)
        if callback.model.stop_training:
            stopped = epoch + 1
            break
    assert stopped == stops


def test_what_an_earlier_version_remembered_is_understood():
    from kcv.training.callbacks.control import BestModel, EarlyStopping

    best, patience = BestModel(FakeCore(), "val_loss", lambda epoch: None), EarlyStopping("val_loss", 2)
    best.load_state_dict({"best_epoch": 2, "best": -0.3})
    patience.load_state_dict({"wait": 1, "best": 0.3, "best_epoch": 1})
    best.on_epoch_end(2, {**LOGS, "val_loss": 0.4})
    assert best.best_epoch == 2
    patience.on_epoch_end(2, {**LOGS, "val_loss": 0.2})
    assert patience.wait == 0
    best.load_state_dict({"best_epoch": 0, "best": None})
    best.on_epoch_end(0, LOGS)
    assert best.best_epoch == 1


def test_history_is_a_whole_file_after_every_epoch(tmp_path):
    from kcv.training.callbacks.logging import CSVLogger

    callback = CSVLogger(tmp_path / "history.csv")
    for epoch in range(2):
        callback.on_epoch_end(epoch, {**LOGS, "loss": 1 / (epoch + 3)})
        rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
        assert len(rows) == epoch + 1
        assert float(rows[-1]["loss"]) == 1 / (epoch + 3)
    assert [row["epoch"] for row in callback.rows] == [1, 2]


def test_the_time_before_an_epoch_is_part_of_it_in_the_history():
    from kcv.training.callbacks.logging import CSVLogger

    history = CSVLogger(None)
    history.preparation = 30.0  # half a minute of frozen features
    interrupted = history.state_dict()
    history.on_epoch_end(0, LOGS)
    history.on_epoch_end(1, LOGS)
    assert [row["seconds"] for row in history.rows] == [42.0, 12.0]
    resumed = CSVLogger(None)
    resumed.load_state_dict(interrupted)
    resumed.on_epoch_end(0, LOGS)
    assert resumed.rows[0]["seconds"] == 42.0
    resumed.load_state_dict({"rows": []})  # as earlier versions wrote it
    resumed.on_epoch_end(0, LOGS)
    assert resumed.rows[0]["seconds"] == 12.0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(loss):
    from kcv.training.callbacks.control import TerminateOnNaN

    TerminateOnNaN().on_epoch_end(0, LOGS)
    with pytest.raises(KcvError, match=r"the loss became .* in epoch 5"):
        TerminateOnNaN().on_epoch_end(4, {"loss": loss})
    with pytest.raises(KcvError, match=r"the validation loss became .* in epoch 5"):
        TerminateOnNaN().on_epoch_end(4, {**LOGS, "val_loss": loss})


def test_the_report_is_one_line_an_epoch(caplog, capsys):
    from kcv.training.callbacks.logging import ProgressLogger

    report = ProgressLogger(count=600, steps=3, epochs=10)
    with caplog.at_level(logging.INFO, logger="kcv"):
        for epoch in range(2):
            report.on_epoch_begin(epoch)
            for step in range(3):
                report.on_train_batch_end(step, {"loss": 0.5, "accuracy": 0.8})
            report.on_epoch_end(epoch, LOGS)
    assert [record.getMessage() for record in caplog.records] == [
        "epoch  1/10  loss 0.5000  accuracy 0.8000  val_loss 0.6000  val_accuracy 0.7500  lr 1.00e-03  "
        "300 images/s  0:12  1:48 left",
        "epoch  2/10  loss 0.5000  accuracy 0.8000  val_loss 0.6000  val_accuracy 0.7500  lr 1.00e-03  "
        "300 images/s  0:12  1:36 left",
    ]
    assert capsys.readouterr().err == ""


def test_epochs_of_the_head_alone_do_not_say_how_long_the_others_take(caplog):
    from kcv.training.callbacks.logging import ProgressLogger

    report = ProgressLogger(count=600, steps=3, epochs=4, head_alone=2)
    with caplog.at_level(logging.INFO, logger="kcv"):
        for epoch in range(4):
            report.on_epoch_begin(epoch)
            report.on_epoch_end(epoch, LOGS)
    said = [record.getMessage().rpartition("images/s  ")[2] for record in caplog.records]
    assert said == ["0:12", "0:12", "0:12  0:12 left", "0:12"]


def test_the_tracker_gets_every_column_once_an_epoch():
    from kcv.training.callbacks.logging import CSVLogger, TrackerCallback

    seen = []
    history = CSVLogger(None)
    history.preparation = 30.0  # half a minute of frozen features
    tracker = SimpleNamespace(log_metrics=lambda figures, step: seen.append((step, figures)))
    callback = TrackerCallback(tracker, history)
    for epoch in range(2):
        history.on_epoch_end(epoch, LOGS)
        callback.on_epoch_end(epoch, LOGS)
    assert seen == [(1, {**LOGS, "seconds": 42.0}), (2, LOGS)]
