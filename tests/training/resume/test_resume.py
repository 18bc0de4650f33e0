"""A run that is stopped at any step goes on to the same weights, history and figures, to the bit."""

from __future__ import annotations

import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interrupted import Configure, assert_same, disturb, stopped_at

from kcv import artifact, evaluate
from kcv.config import Config
from kcv.data import loading
from kcv.data.augment import keras_cv
from kcv.data.parquet import source as parquet
from kcv.errors import ConfigError, DataError, DeviceError, KcvError, OutputError, UsageError
from kcv.tasks.train import train
from kcv.training.callbacks.checkpoint import Checkpoint
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.lock import lock
from kcv.training.resume.record import Record
from kcv.training.run_folder import Run

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout, average, patience": {"model.dropout": 0.2, "train.ema": 0.9, "train.patience": 1, "epochs": 4},
    "augmented, mixed": {"augment.crop_padding": 1, "augment.cutmix": 1.0, "augment.color_jitter": 0.3},
    "all of these, streamed": {
        "model.dropout": 0.2, "train.ema": 0.9, "train.patience": 1, "epochs": 3, "augment.crop_padding": 1,
        "augment.cutmix": 1.0, "augment.color_jitter": 0.3, "data.memory_budget_mb": 0, "data.workers": 1,
    },
    "the last epoch": {"train.keep": "last", "model.dropout": 0.2},
    "sgd, cosine": {"optim.name": "sgd", "optim.schedule": "cosine", "lr": 0.1},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "streamed": {"data.memory_budget_mb": 0, "data.workers": 1},
}  # fmt: skip
KERAS_CV = {"augment.library": "keras_cv", "augment.layers": [{"name": "RandAugment", "magnitude": 0.3}, "CutMix"]}
EXTRA = pytest.mark.skipif(not keras_cv.installed(), reason="needs the extra kcv[kerascv]")


CASES = [pytest.param(v, id=name, marks=() if "all of" in name else pytest.mark.full) for name, v in VARIANTS.items()]


@pytest.mark.parametrize("variant", [*CASES, pytest.param(KERAS_CV, id="keras_cv", marks=EXTRA)])
def test_a_run_goes_on_to_the_bit(variant: dict[str, Any], configure: Configure, tmp_path: Path) -> None:
    common = {"train.checkpoint_seconds": 0, "epochs": 2, **variant}
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common))
    cut = configure(output_dir=str(tmp_path / "cut"), **common)
    # Six steps an epoch: in the middle, at the beginning, before the validation.
    for epoch, step, how in ((0, 3, "kill"), (1, 0, "ask"), (1, 6, "kill")):
        with stopped_at(epoch, step, how), pytest.raises((KeyboardInterrupt, SystemExit)):
            train(cut) if epoch == 0 else train(resume=tmp_path / "cut")
        disturb()
    again = train(resume=tmp_path / "cut")
    assert_same(whole, again)
    assert not (tmp_path / "cut" / "resume").exists()


@pytest.fixture
def shards(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The images as Parquet files that are too large to be read at once."""
    monkeypatch.setattr(parquet, "EAGER_BYTES", 0)
    folder = tmp_path / "shards"
    folder.mkdir()
    for split in ("train", "val", "test"):
        files = sorted((images / split).glob("*/*"))
        for number, part in enumerate((files[0::2], files[1::2])):
            rows = [{"bytes": file.read_bytes(), "path": None} for file in part]
            table = pa.table({"image": rows, "label": [file.parent.name for file in part]})
            pq.write_table(table, folder / f"{split}-{number}.parquet", row_group_size=7)
    return folder


@pytest.mark.full
def test_a_run_on_parquet_larger_than_memory_goes_on_to_the_bit(
    configure: Configure, shards: Path, tmp_path: Path
) -> None:
    common = {"data": str(shards), "data.memory_budget_mb": 0, "data.workers": 0, "train.checkpoint_seconds": 0,
              "augment.flip": "random", "epochs": 3}  # fmt: skip
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common))
    with stopped_at(1, 3, "kill"), pytest.raises(SystemExit):
        train(configure(output_dir=str(tmp_path / "cut"), **common))
    disturb()
    with pytest.raises(DataError, match=r"were read from disk when the run began.*data.memory_budget_mb"):
        train(Config.load(tmp_path / "cut" / "config.yaml", **{"data.memory_budget_mb": 100}), resume=tmp_path / "cut")
    other_workers = Config.load(tmp_path / "cut" / "config.yaml", **{"data.workers": 2})
    assert_same(whole, train(other_workers, resume=tmp_path / "cut"))


@pytest.mark.full
def test_a_shard_that_is_gone_ends_a_run_in_one_line_and_comes_back(
    configure: Configure, shards: Path, tmp_path: Path
) -> None:
    common = {"data": str(shards), "data.memory_budget_mb": 0, "data.workers": 0, "train.checkpoint_seconds": 0}
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common))
    shard, consider = shards / "train-1.parquet", Checkpoint._consider

    def lose(self: Checkpoint, at: int) -> None:
        if (self._epoch, at) == (0, 2):
            shard.rename(shards / "away")
        consider(self, at)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match=r"train-1.parquet: is no regular file"):
        patch.setattr(Checkpoint, "_consider", lose)
        train(configure(output_dir=str(tmp_path / "cut"), **common))
    (shards / "away").rename(shard)
    assert_same(whole, train(resume=tmp_path / "cut"))


@pytest.mark.full
@pytest.mark.parametrize("views", [None, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_of_two_stages_goes_on_in_each(
    views: int | None, configure: Configure, trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))
    common = {
        "train.checkpoint_seconds": 0, "epochs": 4, "model.unfreeze_after": 2,
        "model.weights": str(trained_run.model_path), "model.width": 0.5,
        "augment.crop_padding": 1, "model.feature_views": views, "model.dropout": 0.2,
    }  # fmt: skip
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common))
    cut = configure(output_dir=str(tmp_path / "cut"), **common)
    for place in ((1, 2), (2, 0), (3, 4)):
        with stopped_at(*place), pytest.raises(KeyboardInterrupt):
            train(cut) if place == (1, 2) else train(resume=tmp_path / "cut")
        disturb()
    assert_same(whole, train(resume=tmp_path / "cut"))


@pytest.mark.full
def test_without_a_checkpoint_it_begins_again(configure: Configure, undisturbed: Run, tmp_path: Path) -> None:
    with stopped_at(0, 2, how="kill"), pytest.raises(SystemExit):
        train(configure(output_dir=str(tmp_path / "cut")))  # half a minute is not over: nothing was written
    assert CheckpointStore(tmp_path / "cut" / "resume").newest() is None
    assert_same(undisturbed, train(resume=tmp_path / "cut"))


@pytest.mark.full
def test_a_damaged_checkpoint_is_passed_over(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = {"train.checkpoint_seconds": 0}
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common))
    with stopped_at(1, 3), pytest.raises(KeyboardInterrupt):
        train(configure(output_dir=str(tmp_path / "cut"), **common))
    newest = max((tmp_path / "cut" / "resume").glob("checkpoint-*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="kcv"):
        again = train(resume=tmp_path / "cut")
    assert "is damaged" in caplog.text
    assert_same(whole, again)


@pytest.fixture
def cut(configure: Configure, tmp_path: Path) -> Path:
    """A run that was stopped in its second epoch."""
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(configure(output_dir=str(tmp_path / "cut"), **{"train.checkpoint_seconds": 0}))
    return tmp_path / "cut"


def test_another_configuration_is_refused_by_key(cut: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume: optim\.lr: received 0\.1, but the run began with 0\.003\."):
        train(Config.load(cut / "config.yaml", lr=0.1), resume=cut)
    text = (cut / "config.yaml").read_text().replace("epochs: 2", "epochs: 5")
    (cut / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"train\.epochs: received 5, but the run began with 2"):
        train(resume=cut)


def test_what_changes_nothing_may_change(cut: Path) -> None:
    changes = {"data.workers": 1, "data.memory_budget_mb": 0, "train.checkpoint_seconds": 60.0}
    assert train(Config.load(cut / "config.yaml", **changes), resume=cut).metrics


@pytest.mark.filterwarnings("ignore")  # the test reads through MLflow's client itself
@pytest.mark.full
def test_its_record_goes_on_too(configure: Configure, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = configure(output_dir=str(tmp_path / "cut"), tracking=uri, **{"train.checkpoint_seconds": 0})
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(config)
    run = train(resume=tmp_path / "cut")
    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("kcv").experiment_id])
    assert found.info.status == "FINISHED"
    points = client.get_metric_history(found.info.run_id, "val_loss")
    assert [point.step for point in points] == [1, 2]
    assert [point.value for point in points] == pytest.approx([row["val_loss"] for row in run.history])


@pytest.mark.full
def test_a_record_that_no_server_has_seen_goes_on_too(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kcv.tracking.sender.SILENT_SECONDS", 0.1)
    uri = "http://anna:s3cr3t@127.0.0.1:9"
    config = configure(output_dir=str(tmp_path / "cut"), tracking=uri, **{"train.checkpoint_seconds": 0})
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(config)
    (first,) = (tmp_path / "cache" / "tracking").glob("*.jsonl")
    assert json.loads((tmp_path / "cut" / "resume" / "run.json").read_text())["tracking"] == {
        "location": "http://127.0.0.1:9",
        "run": first.stem,
    }
    assert b"s3cr3t" not in (tmp_path / "cut" / "resume" / "run.json").read_bytes()
    train(resume=tmp_path / "cut")
    (second,) = set((tmp_path / "cache" / "tracking").glob("*.jsonl")) - {first}
    assert json.loads(second.read_text().splitlines()[0])["continues"] == first.stem


def test_other_images_are_refused(configure: Configure, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(images, own)
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(configure(data=str(own), output_dir=str(tmp_path / "cut"), **{"train.checkpoint_seconds": 0}))
    next((own / "train").rglob("*.png")).unlink()
    with pytest.raises(DataError, match=r"has changed since the run began: 89 train images, 90 then"):
        train(resume=tmp_path / "cut")


@pytest.mark.full
def test_the_data_are_found_from_another_folder(
    configure: Configure, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shutil.copytree(images, tmp_path / "here" / "own")
    monkeypatch.chdir(tmp_path / "here")
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(configure(data="own", output_dir=str(tmp_path / "cut"), **{"train.checkpoint_seconds": 0}))
    monkeypatch.chdir(tmp_path / "there")
    shutil.copytree(tmp_path / "cut", tmp_path / "copy")
    run = train(resume=tmp_path / "cut")
    assert evaluate(run.model_path, plots=False).metrics == run.metrics

    (tmp_path / "here" / "own").rename(tmp_path / "there" / "moved")
    for again in (lambda: train(resume=tmp_path / "copy"), lambda: evaluate(run.model_path, plots=False)):
        with pytest.raises(DataError, match=r"'own', is not there, neither in .*here, .* nor in .*there; --data=PATH"):
            again()
    config = Config.load(tmp_path / "copy" / "config.yaml", data="moved")
    assert train(config, resume=tmp_path / "copy").metrics == run.metrics


@pytest.mark.full
def test_a_run_among_its_own_images_goes_on_and_is_evaluated(
    configure: Configure,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(images / "train", tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    config = configure(data=".", output_dir=None, **{"train.checkpoint_seconds": 0})
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        train(config)
    (cut,) = Path("runs/run").iterdir()
    with caplog.at_level(logging.INFO, logger="kcv"):
        run = train(resume=cut)
    assert "no splits: 90 images in class folders" in caplog.text
    assert "not looked at: runs, made by kcv or MLflow" in caplog.text
    Path("mlartifacts/1/0a").mkdir(parents=True)
    shutil.copytree(run.directory / "evaluation", "mlartifacts/1/0a/artifacts")
    Path("mlflow.db").touch()
    assert evaluate(run.model_path).metrics == run.metrics
    source = loading.open_source(".")
    assert source.class_names == ("centre", "left", "top")
    assert source.fingerprint == artifact.read_info(run.model_path).data_fingerprint
    assert source.understood is not None
    assert (list(source.understood.outputs), source.understood.left_out) == (["mlartifacts", "runs"], [])


def test_another_precision_is_refused(cut: Path) -> None:
    with pytest.raises(DeviceError, match=r"precision=float32, here it would be mixed_bfloat16"):
        train(Config.load(cut / "config.yaml", precision="mixed_bfloat16"), resume=cut)


@pytest.mark.full
def test_other_versions_are_said(cut: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = Record.read(cut / "resume" / "run.json")
    record.surroundings["packages"]["torch"] = "1.0"
    record.write(cut / "resume" / "run.json")
    with caplog.at_level(logging.WARNING, logger="kcv"):
        train(resume=cut)
    assert f"the run goes on, but not bit for bit: torch {version('torch')} instead of 1.0" in caplog.text


def test_a_finished_run_says_so(trained_run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kcv"):
        again = train(resume=trained_run.directory)
    assert "has come to its end before" in caplog.text
    assert (again.metrics, again.best_epoch) == (trained_run.metrics, trained_run.best_epoch)
    assert again.history == trained_run.history


def test_a_folder_in_use_is_refused(cut: Path) -> None:
    with lock(cut / "resume" / "lock"), pytest.raises(OutputError, match="another training runs there"):
        train(resume=cut)


def test_no_run_there(tmp_path: Path, trained_run: Run) -> None:
    with pytest.raises(UsageError, match="no run there"):
        train(resume=tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(trained_run.directory, folder)
    (folder / "metrics.json").unlink()
    with pytest.raises(UsageError, match="left nothing to go on from"):
        train(resume=folder)


def test_damaged_records_are_refused(cut: Path) -> None:
    for path in (cut / "resume").glob("checkpoint-*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        train(resume=cut)
    (cut / "resume" / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json: is missing or damaged"):
        train(resume=cut)


def test_a_run_of_another_network_is_refused(cut: Path) -> None:
    # As after an edit of config.yaml, and a record that was made for it.
    path = cut / "config.yaml"
    path.write_text(path.read_text().replace("width: 0.25", "width: 0.5"))
    record = Record.read(cut / "resume" / "run.json")
    record.config["model.width"] = 0.5
    record.write(cut / "resume" / "run.json")
    with pytest.raises(KcvError, match="of another network"):
        train(resume=cut)


@pytest.mark.full
def test_pieces_of_a_killed_process_are_swept_away(cut: Path) -> None:
    (cut / ".model.abcd1234.keras").write_bytes(b"half")
    (cut / "resume" / ".checkpoint-00000009.abcd1234.safetensors").write_bytes(b"half")
    (cut / ".mine").touch()
    run = train(resume=cut)
    hidden = {path.name for path in run.directory.iterdir() if path.name.startswith(".")}
    assert hidden == {".mine"}


def test_without_checkpoints_there_are_none(configure: Configure, tmp_path: Path) -> None:
    config = configure(**{"train.checkpoint_seconds": None})
    with stopped_at(1, 2, how="ask"), pytest.raises(KeyboardInterrupt):
        train(config)
    assert not list((tmp_path / "run" / "resume").glob("checkpoint-*"))
