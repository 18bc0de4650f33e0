"""`train --folds`: each image is measured by a model that has not seen it, nor a copy of it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from warm import Child, Finished

from kcv.config import Config
from kcv.data import loading
from kcv.errors import ConfigError, DataError, OutputError, UsageError
from kcv.tasks.train_folds import Folds, train_folds

Configure = Callable[..., Config]


@pytest.fixture(scope="session")
def folded(trained_config: Config, shared: Path) -> Folds:
    """A finished training in two folds."""
    from workers import made_once

    config = trained_config.model_copy(
        update={
            "output_dir": shared / "runs" / "folded",
            "train": trained_config.train.model_copy(update={"plots": False}),
        }
    )
    return made_once(shared, "folded", lambda: train_folds(config, 2))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "out_of_fold.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_image_of_train_and_val_is_predicted_out_of_fold_and_none_of_test(folded: Folds, images: Path) -> None:
    rows = rows_of(folded.directory)
    wanted = [f"{path.relative_to(images)}" for split in ("train", "val") for path in (images / split).rglob("*.png")]
    assert sorted(row["path"] for row in rows) == sorted(wanted)
    assert {row["fold"] for row in rows} == {"1", "2"}
    assert all(Path(row["path"]).parent.name == row["label"] for row in rows)
    for row in rows[:20]:
        scores = [float(row[f"probability of {name}"]) for name in ("centre", "left", "top")]
        assert sum(scores) == pytest.approx(1)
        assert float(row["confidence"]) == max(scores)
        assert row["predicted"] == ("centre", "left", "top")[int(np.argmax(scores))]


def test_the_accuracy_is_that_of_the_predictions_with_the_wider_interval(folded: Folds) -> None:
    rows, metrics = rows_of(folded.directory), folded.metrics
    right = np.mean([row["predicted"] == row["label"] for row in rows])
    assert metrics["split"] == "out-of-fold"
    assert metrics["n"] == len(rows) == 114
    assert metrics["accuracy"] == pytest.approx(right)
    low, high = metrics["accuracy_ci95"]
    assert low < right <= high
    assert [row["n"] for row in metrics["folds"]] == [57, 57]
    assert json.loads((folded.directory / "metrics.json").read_text()) == metrics


def test_a_fold_is_a_run_whose_test_split_is_what_it_held_out(folded: Folds) -> None:
    from kcv.tasks.evaluate import evaluate

    rows = rows_of(folded.directory)
    for number in (1, 2):
        run = folded.directory / f"fold-{number}"
        found = json.loads((run / "metrics.json").read_text())
        mine = [row for row in rows if row["fold"] == str(number)]
        assert (found["split"], found["n"]) == ("test", len(mine))
        assert found["accuracy"] == folded.metrics["folds"][number - 1]["accuracy"]
        again = evaluate(run, output_dir=folded.directory / "again", plots=False)
        assert again.metrics["accuracy"] == found["accuracy"]


def test_no_fold_trains_chooses_or_measures_on_the_same_image_twice(folded: Folds, images: Path) -> None:
    config = Config.load(folded.directory / "fold-1" / "config.yaml")
    source = loading.open_source(str(images))
    train, val, test = loading.split_source(source, config.data)
    assert test is not None
    names = [*train.names, *val.names, *test.names]
    assert len(set(names)) == len(names) == 114


@pytest.mark.parametrize("flat", [True, False])
def test_where_folds_validate_the_test_split_is_that_of_a_run_without_folds(
    images: Path, configure: Configure, flat: bool
) -> None:
    source = loading.open_source(str(images / "train" if flat else images))
    plain = loading.split_source(source, configure(data=str(images)).data)
    keys = {"data.fold_split": "val", "data.val_fraction": 0.2}
    folds = [loading.split_source(source, configure(**keys, **{"data.fold": f"{n}/3"}).data) for n in (1, 2, 3)]
    without = loading.split_source(source, configure(**{"data.val_fraction": 0.2}).data)
    assert without[2] is not None and plain[2] is not None
    pool = sorted([*without[0].names, *without[1].names])
    for train, val, test in folds:
        assert test is not None
        assert list(test.names) == list(without[2].names)
        assert sorted([*train.names, *val.names]) == pool
    assert sorted(name for _, val, _ in folds for name in val.names) == pool, "each image validates once"


def test_the_final_model_is_of_all_folds_and_measured_on_the_test_split(folded: Folds) -> None:
    from kcv import artifact

    assert folded.model_path == folded.directory / "final" / "model.keras"
    final = folded.metrics["final"]["metrics"]
    assert (final["split"], final["n"]) == ("test", 24)
    assert artifact.read_info(folded.model_path).data_options["fold"].startswith("0/2@")


def test_a_finished_training_is_not_repeated(folded: Folds) -> None:
    before = {path: path.stat().st_mtime_ns for path in folded.directory.rglob("*") if path.is_file()}
    again = train_folds(resume=folded.directory)
    assert again.metrics == folded.metrics
    assert {path: path.stat().st_mtime_ns for path in folded.directory.rglob("*") if path.is_file()} == before


@pytest.mark.full
def test_folds_interrupted_before_the_final_model_go_on_without_training_the_folds_again(
    folded: Folds, trained_config: Config, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(folded.directory, cut)
    shutil.rmtree(cut / "final")
    for name in ("metrics.json", "out_of_fold.csv", "label_errors.csv", "label_errors.html"):
        (cut / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in cut.glob("fold-*/*")}
    done = train_folds(trained_config, resume=cut)
    assert {path: path.stat().st_mtime_ns for path in cut.glob("fold-*/*")} == before
    assert done.metrics == folded.metrics
    for name in ("metrics.json", "out_of_fold.csv", "label_errors.csv", "label_errors.html", "final/history.csv"):
        assert (cut / name).is_file()
    assert (cut / "out_of_fold.csv").read_bytes() == (folded.directory / "out_of_fold.csv").read_bytes()


def test_copies_stay_on_one_side(images: Path, configure: Configure, tmp_path: Path) -> None:
    data = tmp_path / "copied"
    shutil.copytree(images / "train", data)
    for place in sorted(data.rglob("00?.png")):
        shutil.copy(place, place.with_name(f"copy-{place.name}"))
    source = loading.open_source(str(data))
    for fold in ("0/3", "1/3", "2/3", "3/3"):
        config = configure(data=str(data), **{"data.fold": fold})
        parts = [part for part in loading.split_source(source, config.data) if part is not None]
        sides = [{name.replace("copy-", "") for name in part.names} for part in parts]
        for number, one in enumerate(sides):
            assert not any(one & other for other in sides[number + 1 :])


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ({"data.fold": "1/2"}, ConfigError, "leave it out with --folds"),
        ({"data": "nowhere"}, DataError, "nowhere"),
        ({"model.weights": "nowhere.keras"}, Exception, "nowhere.keras"),
    ],
)
def test_what_cannot_work_is_told_and_leaves_nothing(
    configure: Configure, tmp_path: Path, values: dict[str, object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        train_folds(configure(**values), 2)
    assert not (tmp_path / "run").exists()


def test_minutes_are_of_one_run(images: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.minutes: is for one run"):
        train_folds(Config.load(data=str(images), minutes=1), 2)


def test_more_folds_than_images_of_a_class_are_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 38 images, fewer than 39 folds; use --folds=38"):
        train_folds(configure(), 39)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_told_how_to_train_folds(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"--data\.fold=1/5"):
        train_folds(configure(), 5)


def test_a_folder_that_holds_folds_is_not_written_over(folded: Folds, configure: Configure) -> None:
    with pytest.raises(OutputError, match="already holds"):
        train_folds(configure(output_dir=str(folded.directory)), 2)


@pytest.mark.parametrize(
    "name", ["metrics.json", "folds.json", "out_of_fold.csv", "fold-1/mine.txt", "resume/mine.txt"]
)
def test_nothing_that_is_there_is_taken_for_a_result_or_removed(
    configure: Configure, tmp_path: Path, name: str
) -> None:
    there = tmp_path / "run" / name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(OutputError, match=f"already holds {name.partition('/')[0]}; choose another --output_dir"):
        train_folds(configure(), 2)
    assert there.read_text() == "mine"
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [there]


def test_folds_go_on_only_as_they_began(folded: Folds, configure: Configure) -> None:
    with pytest.raises(UsageError, match="received --folds=3, but the training began with 2"):
        train_folds(folds=3, resume=folded.directory)
    with pytest.raises(ConfigError, match=r"data\.batch_size: received 7"):
        train_folds(configure(batch_size=7), resume=folded.directory)
    with pytest.raises(UsageError, match="no training in folds there"):
        train_folds(resume=folded.directory / "fold-1")


def test_folds_of_somebody_else_go_on_only_where_they_are_named(folded: Folds, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(folded.directory, theirs)
    (theirs / "metrics.json").unlink()
    plan = json.loads((theirs / "folds.json").read_text())
    (theirs / "folds.json").write_text(json.dumps({**plan, "signature": "0" * 64}))
    with pytest.raises(UsageError, match="nothing shows that you began these folds"):
        train_folds(resume=theirs)
    (theirs / "folds.json").write_text(json.dumps({**plan, "working_folder": "/"}))
    with pytest.raises(DataError, match="checksum is of other content"):
        train_folds(resume=theirs)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds=1"], "--folds: received '1', allowed: a whole number from 2"),
        (["--folds=2", "--minutes=1"], "train.minutes: is for one run, not for --folds"),
        (["--folds=99"], "fewer than 99 folds; use --folds=38"),
        (["--ensemble"], "--ensemble needs --folds=K"),
        (["--data.fold=3/2"], "data.fold: received '3/2', allowed: 0/K to K/K"),
        (["--data.fold_split=val"], "data.fold_split: received 'val', allowed: test, unless data.fold names the fold"),
        (["--data.fold=0/3", "--data.fold_split=val"], "data.fold: received '0/3', allowed with data.fold_split=val"),
        (["--data.fold=two"], "data.fold: received 'two', allowed: a fold and the number of folds"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    kcv: Callable[..., Finished], images: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    done = kcv("train", f"--data={images}", "--model=custom_cnn", "--tracking=none", "--output_dir=run", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_folds_killed_in_the_second_go_on_from_another_folder_and_end_the_same(
    start: Callable[..., Child], images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "photos")
    (tmp_path / "elsewhere").mkdir()
    words = [
        "--data=photos", "--folds=2", "--epochs=8", "--batch_size=16", "--precision=float32", "--device=cpu",
        "--tracking=none", "--model=custom_cnn", "--model.width=0.125", "--train.checkpoint_seconds=0",
        "--train.plots=false", "--ensemble",
    ]  # fmt: skip
    assert start("train", *words, "--output_dir=whole").finished().returncode == 0
    cut = start("train", *words, "--output_dir=cut")
    while not list((tmp_path / "cut" / "fold-2" / "resume").glob("checkpoint-*.json")):
        assert cut.poll() is None
        time.sleep(0.02)
    cut.kill()
    before = (tmp_path / "cut" / "fold-1" / "model.keras").read_bytes()
    done = start("train", "--resume=../cut", "--format=json", cwd=tmp_path / "elsewhere").finished()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cut" / "fold-1" / "model.keras").read_bytes() == before
    assert (tmp_path / "cut" / "out_of_fold.csv").read_bytes() == (tmp_path / "whole" / "out_of_fold.csv").read_bytes()
    answer = json.loads(done.stdout)
    assert answer["model"].endswith("ensemble.onnx")
    assert answer["metrics"]["final"]["metrics"]["split"] == "test"
    assert "label_errors" in answer["metrics"]
