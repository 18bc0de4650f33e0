"""Training as a whole: what it leaves behind, that it repeats itself, and that it keeps its promises about splits."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kcv.artifact import read_info
from kcv.config import Config
from kcv.errors import DataError, KcvError, OutputError
from kcv.inference.opening import load


@pytest.fixture(scope="module")
def trained(trained_config, trained_run):
    """One finished run with its configuration, shared by the tests that only look at it."""
    return trained_config, trained_run


def _weights(run) -> list[np.ndarray]:
    return load(run.model_path).keras_model.get_weights()


def _equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_it_learns(trained):
    _, run = trained
    assert run.metrics["accuracy"] > 0.9
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_the_run_folder_holds_what_it_promises(trained):
    config, run = trained
    names = {entry.name for entry in run.directory.iterdir()}
    assert names == {
        "config.yaml", "model.keras", "history.csv", "metrics.json", "environment.json", "evaluation", "report.html",
        "MODEL_CARD.md",
    }  # fmt: skip
    assert Config.load(run.directory / "config.yaml") == config
    metrics = json.loads((run.directory / "metrics.json").read_text())
    assert metrics == run.metrics
    assert metrics["split"] == "test"
    assert metrics["n"] == 24
    rows = list(csv.DictReader((run.directory / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0]) == [
        "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second",
    ]  # fmt: skip
    environment = json.loads((run.directory / "environment.json").read_text())
    assert environment["seed"] == config.seed
    assert environment["data_fingerprint"] == read_info(run.model_path).data_fingerprint
    assert environment["threads"] >= 1


@pytest.mark.full
def test_confidences_are_calibrated_on_validation_unless_told_otherwise(trained, configure):
    from kcv import train
    from kcv.data import loading
    from kcv.inference import outputs
    from kcv.metrics.temperature import fit

    config, run = trained
    loaded = load(run.model_path)
    val = loading.load(config.data).val
    assert loaded.calibration == fit(outputs.logits(loaded.keras_model, val), val.labels)
    plain = load(train(configure(calibrate=False)).model_path)
    assert plain.calibration.temperature == 1
    unsure = load(train(configure(abstain_precision=0.6, output_dir=str(config.output_dir) + "-unsure")).model_path)
    assert unsure.calibration.wanted_precision == 0.6
    assert unsure.threshold is not None


def test_sets_are_fitted_with_the_temperature_or_refused_before_there_is_a_run(configure):
    from kcv import train

    config = configure(coverage=0.9)
    run = train(config)
    loaded = load(run.model_path)
    assert loaded.sets.wanted_coverage == 0.9
    assert loaded.sets.images == loaded.calibration.pictures == 24
    assert run.metrics["prediction_sets"]["coverage"] >= 0.5
    short = configure(coverage=0.99, output_dir=str(config.output_dir) + "-short")
    with pytest.raises(DataError, match=r"0\.99 needs 99 or more validation images, and there are 24"):
        train(short)
    assert not Path(short.output_dir).exists()


def test_the_model_describes_itself(trained, images):
    config, run = trained
    info = read_info(run.model_path)
    assert info.class_names == ("centre", "left", "top")
    assert (info.image_size, info.resize, info.precision) == (16, "squash", "float32")
    assert info.metrics == run.metrics
    assert info.best_epoch == run.best_epoch
    assert Config.from_dict(info.config) == config
    model = load(run.model_path).keras_model
    assert info.parameters["total"] == model.count_params()
    assert 0 < info.parameters["trainable"] < info.parameters["total"]


def test_the_file_holds_the_weights_of_the_best_epoch(trained, images):
    from kcv.data import loading
    from kcv.inference import outputs

    config, run = trained
    val = loading.load(config.data).val
    logits = outputs.logits(load(run.model_path).keras_model, val)
    best = max(row["val_accuracy"] for row in run.history)
    assert np.mean(logits.argmax(axis=1) == val.labels) == pytest.approx(best)
    assert run.history[run.best_epoch - 1]["val_accuracy"] == best


def test_the_stored_metrics_are_those_of_the_stored_model(trained):
    from kcv import metrics
    from kcv.data import loading
    from kcv.inference import outputs

    config, run = trained
    dataset = loading.load(config.data)
    loaded = load(run.model_path)
    probabilities = loaded.calibration.probabilities(outputs.logits(loaded.keras_model, dataset.test))
    assert metrics.summarize(dataset.test.labels, probabilities, loaded.class_names, "test") == run.metrics


def test_the_same_seed_gives_the_same_run_and_another_seed_another(configure, tmp_path):
    from kcv.tasks.train import train

    options = {"augment.flip": "random", "augment.crop_padding": 2, "augment.mixup": 0.2, "model.dropout": 0.2}
    runs = [
        train(configure(output_dir=str(tmp_path / name), seed=seed, **options))
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    assert _equal(_weights(runs[0]), _weights(runs[1]))
    timeless = [[(row["loss"], row["val_loss"]) for row in run.history] for run in runs]
    assert timeless[0] == timeless[1]
    assert not _equal(_weights(runs[0]), _weights(runs[2]))


def test_the_test_split_has_no_say_in_training(configure, images, undisturbed, tmp_path):
    from kcv.tasks.train import train

    altered = tmp_path / "altered"
    shutil.copytree(images, altered)
    for number, path in enumerate(sorted((altered / "test").rglob("*.png"))):
        if number % 2:
            shutil.copy(next((altered / "test" / "left").glob("*.png")), path)
    other = train(configure(output_dir=str(tmp_path / "b"), data=str(altered)))
    assert _equal(_weights(undisturbed), _weights(other))
    assert undisturbed.metrics["accuracy"] != other.metrics["accuracy"]


def test_streamed_images_train_the_same_model_as_images_in_memory(configure, tmp_path):
    from kcv.tasks.train import train

    memory = train(configure(output_dir=str(tmp_path / "a"), epochs=1))
    streamed = train(configure(output_dir=str(tmp_path / "b"), epochs=1, **{"data.memory_budget_mb": 0}))
    assert _equal(_weights(memory), _weights(streamed))
    assert memory.metrics == streamed.metrics


def test_without_a_test_split_the_metrics_say_validation(configure, images, tmp_path):
    from kcv.tasks.train import train

    flat = tmp_path / "flat"
    shutil.copytree(images / "train", flat)
    run = train(configure(data=str(flat), epochs=1, **{"data.test_fraction": 0.0}))
    assert run.metrics["split"] == "val"
    assert run.metrics["n"] == 9


def test_a_moving_average_is_what_gets_validated_and_kept(configure, tmp_path):
    from kcv.tasks.train import train

    def distance_from_the_start(run) -> float:
        kernel = load(run.model_path).keras_model.get_layer("block3_conv2").get_weights()[0]
        shared = min(kernel.shape[2:])
        return float(np.abs(kernel[1, 1, :shared, :shared] - np.eye(shared)).max())

    plain = distance_from_the_start(train(configure(output_dir=str(tmp_path / "a"), epochs=1)))
    # With a decay this close to 1 the average stays where the first step, of the warm-up's small rate, has left it.
    slow = distance_from_the_start(train(configure(output_dir=str(tmp_path / "b"), epochs=1, **{"train.ema": 0.99999})))
    assert slow < 5e-4
    assert plain > 10 * slow


def test_early_stopping_ends_the_run(configure):
    from kcv.tasks.train import train

    run = train(configure(epochs=40, **{"train.patience": 2}))
    assert len(run.history) == run.best_epoch + 2
    assert len(run.history) < 40


def test_a_diverging_loss_ends_in_one_line(configure):
    from kcv.tasks.train import train

    with pytest.raises(KcvError, match=r"the loss became .* lower optim\.lr"):
        train(configure(lr=100.0, epochs=3, **{"optim.warmup_epochs": 0, "optim.weight_decay": 100.0}))


def test_a_folder_that_holds_a_run_is_left_alone(trained, configure):
    from kcv.tasks.train import train

    _, run = trained
    before = run.model_path.read_bytes()
    with pytest.raises(OutputError, match="already holds a run"):
        train(configure(output_dir=str(run.directory)))
    assert run.model_path.read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.json", "model.keras", "evaluation/mine.txt", "resume/mine.txt"])
def test_a_run_neither_writes_over_nor_removes_what_is_not_its_own(configure, tmp_path, name):
    from kcv.tasks.train import train

    there = tmp_path / "run" / name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(OutputError, match=f"already holds {name.partition('/')[0]}; choose another --output_dir"):
        train(configure())
    assert there.read_text() == "mine"
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [there]


@pytest.mark.parametrize(
    "bad",
    [{"data": "nowhere"}, {"augment.cutout": 500}, {"tracking": "sqlite:////nowhere/mlflow.db"}, {"device": "mps"}],
    ids=lambda bad: next(iter(bad)),
)
def test_what_cannot_be_run_leaves_no_run_folder(configure, tmp_path, monkeypatch, bad):
    import torch

    from kcv.tasks.train import train

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(KcvError):
        train(configure(**bad))
    assert not (tmp_path / "run").exists()


def test_a_failed_run_keeps_what_it_had(configure, tmp_path, monkeypatch):
    from kcv.tasks.train import train
    from kcv.training.callbacks.logging import ProgressLogger

    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressLogger, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(configure())
    info = read_info(tmp_path / "run" / "model.keras")
    assert info.best_epoch == 1
    assert info.metrics is None


@pytest.mark.full
def test_mlflow_has_the_run(configure, tmp_path):
    from mlflow import MlflowClient

    from kcv.tasks.train import train

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = configure(tracking=uri)
    run = train(config)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("kcv")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["optim.lr"] == str(config.optim.lr)
    assert found.data.metrics["test_accuracy"] == pytest.approx(run.metrics["accuracy"])
    losses = [point.value for point in client.get_metric_history(found.info.run_id, "val_loss")]
    assert losses == pytest.approx([row["val_loss"] for row in run.history])
    names = {entry.path for entry in client.list_artifacts(found.info.run_id)}
    assert "resume" not in names
    assert {"model.keras", "metrics.json", "report.html", "evaluation", "config.yaml"} <= names


def test_no_file_of_a_run_holds_the_credentials_of_its_store(configure, tmp_path, monkeypatch):
    from kcv.tasks.train import train

    monkeypatch.setattr("kcv.tracking.sender.SILENT_SECONDS", 0.2)
    monkeypatch.setattr("sys.argv", ["kcv", "train", "--tracking=http://anna:s3cr3t@127.0.0.1:9"])
    run = train(configure(tracking="http://anna:s3cr3t@127.0.0.1:9"))
    assert run.tracking == "http://127.0.0.1:9"
    assert Config.load(run.directory / "config.yaml").tracking.uri == "http://127.0.0.1:9"
    assert read_info(run.model_path).config["tracking"]["uri"] == "http://127.0.0.1:9"
    (spool,) = (tmp_path / "cache" / "tracking").glob("*.jsonl")
    files = [spool, *(path for path in run.directory.rglob("*") if path.is_file())]
    assert [path for path in files if b"s3cr3t" in path.read_bytes()] == []
    assert len(spool.read_text().splitlines()) > 10
