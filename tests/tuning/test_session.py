"""Whole studies, with real trainings of toy networks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna", reason="needs the extra kcv[tune]")

from warm import Child, WarmPython

from kcv.config import Config
from kcv.errors import ConfigError, KcvError, OutputError, UsageError
from kcv.tracking import NoTracker
from kcv.training.resume.lock import lock
from kcv.training.run_folder import Run
from kcv.tuning import running
from kcv.tuning import session as sessions
from kcv.tuning.outcome import Outcome
from kcv.tuning.session import Asked, Session
from kcv.tuning.study import StudyFolder

TOY = {
    "model": "custom_cnn", "model.width": 0.25, "epochs": 3, "batch_size": 16, "optim.lr": 3e-3, "precision": "float32",
    "device": "cpu", "tracking": "none",
}  # fmt: skip
SPACE = "optim.lr: {low: 1.0e-3, high: 1.0e-2, log: true}\noptim.label_smoothing: [0.0, 0.1]\n"


class Launched:
    """Starts trials from the warm process, and remembers them."""

    def __init__(self, warm: WarmPython, place: Path) -> None:
        self.warm = warm
        self.place = place
        self.children: list[Child] = []

    def __call__(self, stdin: int, log: Path, variables: Mapping[str, str]) -> running.Process:
        child = self.warm.start(running.MODULE, (), folder=self.place, env=variables, stdin=stdin)
        self.children.append(child)
        return child


@pytest.fixture
def launched(warm: WarmPython, tmp_path: Path) -> Launched:
    return Launched(warm, tmp_path)


Tune = Callable[..., Outcome]


@pytest.fixture
def tune(images: Path, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """Runs a study of the toy, or continues one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)

    def run(folder: Path | None = None, *, resume: Path | None = None, **options: Any) -> Outcome:
        from kcv.tasks.tune import _measure

        asked = Asked(**{name: options.pop(name) for name in list(options) if name in Asked.__dataclass_fields__})
        if resume is not None:
            session = Session.resume(resume, asked, options, launch=launched)
        else:
            overrides = {"data": str(images), **TOY, **options}
            session = Session.begin(
                None, tmp_path / "space.yaml", asked, folder or tmp_path / "study", overrides, launch=launched
            )
        return session.run(_measure, time.monotonic())

    return run


def rows_of(folder: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((folder / "trials.csv").read_text().splitlines())
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


@pytest.mark.full
def test_a_study_leaves_run_folders_a_table_a_page_and_a_configuration(tune: Tune, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    found = tune(trials=3, epochs=2, pruner="none", seeds=1, tracking=store)
    folder = tmp_path / "study"
    assert [trial.state for trial in found.trials] == ["complete"] * 3
    assert not list(folder.glob("final/*")), "the trials themselves are the trainings with the first seed"
    assert found.trials[0].default and found.trials[0].params == {"optim.lr": 3e-3, "optim.label_smoothing": 0.1}
    for number in range(3):
        run = folder / "trials" / f"{number:03}"
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["split"] == "val", "a trial does not read the test split"
        history = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
        assert max(float(row["val_accuracy"]) for row in history) == found.trials[number].value
    assert [row["trial"] for row in rows_of(folder)] == ["0", "1", "2"]
    assert found.best is not None
    best = Config.load(folder / "best.yaml")
    if not found.best.default:
        assert best.optim.lr == found.best.params["optim.lr"]
    assert best.train.final_split == "test" and best.output_dir is None
    page = (folder / "study.html").read_text()
    assert page.count("data:image/svg+xml") >= 2 and "<script" not in page
    assert [row["seed"] for row in found.comparison.rows if row["who"] == "best"] == [42]
    assert found.comparison.images == 24
    assert len(found.comparison.pairs) == (0 if found.best.default else 1)
    assert_nested(store, trials=3)


def assert_nested(store: str, trials: int) -> None:
    """In MLflow, the runs of the trials lie below that of the study, which has its files."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    runs = client.search_runs([client.get_experiment_by_name("kcv").experiment_id])
    (study,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    assert len(below) == trials and len(runs) == trials + 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "best_val_accuracy" in study.data.metrics and "space.optim.lr" in study.data.params
    names = {file.path for file in client.list_artifacts(study.info.run_id)}
    assert {"best.yaml", "study.html", "trials.csv"} <= names


@pytest.mark.long
def test_the_winner_and_the_default_are_trained_with_further_seeds(tune: Tune, tmp_path: Path) -> None:
    found = tune(trials=3, pruner="none", seeds=3)
    seeds = [row["seed"] for row in found.comparison.rows if row["who"] == "best"]
    assert seeds == [42, 43, 44]
    assert found.best is not None
    assert len(found.comparison.pairs) == (0 if found.best.default else 3)
    before = (tmp_path / "study" / "test.json").read_bytes()
    again = tune(resume=tmp_path / "study")
    assert again.comparison.rows == found.comparison.rows
    assert (tmp_path / "study" / "test.json").read_bytes() == before, "the test split was not read again"


def test_no_trial_reads_the_test_split(tune: Tune, tmp_path: Path, images: Path) -> None:
    """A canary: its test images are no images, so whoever decodes one fails."""
    shutil.copytree(images, tmp_path / "canary")
    for path in (tmp_path / "canary" / "test").rglob("*.png"):
        path.write_bytes(b"not an image, and nobody may look")
    found = tune(trials=1, epochs=1, pruner="none", seeds=0, data=str(tmp_path / "canary"))
    assert [trial.state for trial in found.trials] == ["complete"]
    assert found.comparison.rows == []
    assert "images: " in found.notes[0] and "more validation images" in found.notes[0]
    again = tune(resume=tmp_path / "study", seeds=1)
    assert "nothing was compared" in again.notes[-1], "the comparison at the end is what reads it"


@pytest.mark.full
@pytest.mark.parametrize("asks", [True, pytest.param(False, marks=pytest.mark.long)], ids=["signal", "as on Windows"])
def test_a_stopped_trial_continues_bit_for_bit(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """With asha, trials wait after the first epoch, and the best goes on: to what it would have been in one go."""
    monkeypatch.setattr(running, "_CAN_ASK", asks)
    found = tune(trials=4, pruner="asha", seeds=0)
    best = [trial for trial in found.trials if trial.state == "complete" and not trial.default]
    assert best, "the best of the waiting trials was continued to its end"
    run = tmp_path / "study" / "trials" / f"{best[0].number:03}"
    alone = tune(folder=tmp_path / "alone", trials=1, pruner="none", seeds=0, **best[0].params)
    other = tmp_path / "alone" / "trials" / "000"
    assert alone.trials[0].value == best[0].value
    ours, theirs = (
        [{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in
         csv.DictReader((folder / "history.csv").read_text().splitlines())]
        for folder in (run, other)
    )  # fmt: skip
    assert ours == theirs
    from kcv.inference.opening import load

    weights = [load(folder / "model.keras").keras_model.get_weights() for folder in (run, other)]
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.long
def test_a_killed_trial_goes_on_and_more_trials_can_be_asked_for(
    tune: Tune, tmp_path: Path, launched: Launched
) -> None:
    look = running.Children.look
    killed: list[int] = []

    def killing(self: running.Children, number: int) -> running.Report:
        report = look(self, number)
        if number == 1 and report.rows and not killed and report.ending is None:
            killed.append(number)
            os.kill(launched.children[-1].pid, signal.SIGKILL)
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.Children, "look", killing)
        tune(trials=2, pruner="none", seeds=0, **{"train.checkpoint_seconds": 0, "epochs": 6})
    assert killed
    found = tune(resume=tmp_path / "study", trials=3)
    undisturbed = tune(folder=tmp_path / "other", trials=3, pruner="none", seeds=0,
                       **{"train.checkpoint_seconds": 0, "epochs": 6})  # fmt: skip
    assert [(one.params, one.values) for one in found.trials] == [
        (one.params, one.values) for one in undisturbed.trials
    ]
    assert rows_of(tmp_path / "study") == rows_of(tmp_path / "other")


def test_a_child_ends_with_its_coordinator(warm: WarmPython, configure: Callable[..., Config], tmp_path: Path) -> None:
    config = configure(epochs=100_000)
    reading, writing = os.pipe()
    child = warm.start(running.MODULE, (), folder=tmp_path, stdin=reading)
    os.close(reading)
    os.write(writing, json.dumps({"runs": [{"config": config.to_dict(), "resume": False}]}).encode() + b"\n")
    while child.poll(0.1) is None and not (tmp_path / "run" / "history.csv").exists():
        pass
    assert child.poll() is None, child.errors
    os.close(writing)  # as the system does when the coordinator is killed
    child.wait()
    assert json.loads(child.output)["status"] == "stopped"
    assert (tmp_path / "run" / "resume" / "run.json").exists(), "it can go on"


def test_in_folds_a_trial_is_the_mean_of_its_folds_and_no_fold_reads_the_test_split(
    tune: Tune, tmp_path: Path, images: Path
) -> None:
    shutil.copytree(images, tmp_path / "canary")
    for path in (tmp_path / "canary" / "test").rglob("*.png"):
        path.write_bytes(b"not an image, and nobody may look")
    found = tune(trials=1, folds=2, epochs=1, seeds=0, data=str(tmp_path / "canary"))
    assert (found.folds, [trial.state for trial in found.trials]) == (2, ["complete"])
    scores = []
    for number in (1, 2):
        run = tmp_path / "study" / "trials" / "000" / f"fold-{number}"
        assert Config.load(run / "config.yaml").data.fold == f"{number}/2@{digest_of_study(tmp_path)}"
        metrics = json.loads((run / "metrics.json").read_text())
        assert (metrics["split"], metrics["n"]) == ("val", 57)
        scores.append(best_of(run))
    assert found.trials[0].values == {1: scores[0], 2: pytest.approx(sum(scores) / 2)}
    rows = list(csv.DictReader((tmp_path / "study" / "trials.csv").read_text().splitlines()))
    assert rows[0]["folds"] == "2" and "epochs" not in rows[0]
    assert "in each of 2 folds" in (tmp_path / "study" / "study.html").read_text()
    assert Config.load(tmp_path / "study" / "best.yaml").data.fold is None
    with pytest.raises(UsageError, match=r"received --folds=3, but the study began with 2 folds"):
        tune(resume=tmp_path / "study", folds=3)


def digest_of_study(place: Path) -> str:
    return str(json.loads((place / "study" / "study.json").read_text())["division"])


def best_of(run: Path) -> float:
    return max(float(row["val_accuracy"]) for row in csv.DictReader((run / "history.csv").read_text().splitlines()))


@pytest.mark.long
def test_a_trial_killed_in_a_fold_goes_on_in_it_and_the_winner_is_trained_without_folds(
    tune: Tune, tmp_path: Path, launched: Launched
) -> None:
    options = {"trials": 2, "folds": 2, "pruner": "none", "train.checkpoint_seconds": 0, "epochs": 4}
    start = running.Children.look
    killed: list[int] = []

    def killing(self: running.Children, number: int) -> running.Report:
        report = start(self, number)
        second = tmp_path / "study" / "trials" / "001" / "fold-2" / "history.csv"
        if number == 1 and second.exists() and not killed and report.ending is None:
            killed.append(number)
            os.kill(launched.children[-1].pid, signal.SIGKILL)
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.Children, "look", killing)
        found = tune(seeds=1, **options)
    assert killed
    undisturbed = tune(folder=tmp_path / "other", seeds=0, **options)
    assert [(one.params, one.values) for one in found.trials] == [
        (one.params, one.values) for one in undisturbed.trials
    ]
    assert found.best is not None and found.comparison.images == 24
    winner = tmp_path / "study" / "final" / f"{found.best.number:03}-seed-42"
    assert Config.load(winner / "config.yaml").data.fold is None


@pytest.mark.long
def test_trials_share_the_features_of_a_frozen_backbone(tune: Tune, launched: Launched, trained_run: Run) -> None:
    frozen = {"model.mode": "feature_extraction", "model.width": 0.5, "model.weights": str(trained_run.model_path)}
    found = tune(trials=2, pruner="none", seeds=0, **frozen)
    assert [trial.state for trial in found.trials] == ["complete"] * 2
    first, second = (child.errors for child in launched.children)
    assert "computed in" in first and "kept from before" not in first
    assert "kept from before" in second and "computed in" not in second


@pytest.mark.long
def test_a_diverging_configuration_is_no_end(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("optim.lr: {low: 1.0e-3, high: 1.0e-2, log: true}\n")
    found = tune(trials=2, pruner="none", seeds=1, **{"optim.lr": 100.0, "optim.name": "sgd", "optim.momentum": 0.99})
    assert found.trials[0].params == {} and found.trials[0].state in ("diverged", "complete")
    assert found.trials[1].state == "complete"
    assert {row["who"] for row in found.comparison.rows} >= {"best"}


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"optim.lr": "abc"}, ConfigError, "optim.lr: received 'abc'"),
        ({"data": "no/such/folder"}, KcvError, "no/such/folder"),
        ({"model.weights": "no-such-file.keras"}, KcvError, "no-such-file.keras"),
        ({"folds": 90}, KcvError, r"has 3\d images, fewer than 90 folds; use --folds="),
        ({"folds": 2, "data.fold": "1/2"}, ConfigError, "data.fold: is one fold of several"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(
    tune: Tune, tmp_path: Path, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        tune(trials=2, **options)
    assert not (tmp_path / "study").exists()


def test_a_study_is_not_overwritten_and_only_a_study_is_continued(tune: Tune, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text("{}")
    with pytest.raises(OutputError, match="already holds a study"):
        tune()
    with pytest.raises(UsageError, match=r"study\.json"):
        tune(resume=folder)
    with pytest.raises(UsageError, match="no study there"):
        tune(resume=tmp_path)


@pytest.mark.parametrize("name", ["trials/mine.txt", "resume/checkpoint-1.json", "study.db", "trials.csv"])
def test_a_study_that_fails_removes_nothing_that_was_there(tune: Tune, tmp_path: Path, name: str) -> None:
    there = tmp_path / "study" / name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(OutputError, match=f"study already holds {name.partition('/')[0]}; choose another --output_dir"):
        tune(trials=1, **{"model.weights": "no-such-file.keras"})
    assert there.read_text() == "mine"


def test_a_study_may_lie_in_a_folder_of_any_name(tune: Tune, tmp_path: Path) -> None:
    folder = tmp_path / "a{b}c?d%20e#f"
    found = tune(folder=folder, trials=1, epochs=1, seeds=0)
    assert [trial.state for trial in found.trials] == ["complete"]
    assert [trial.values for trial in tune(resume=folder).trials] == [trial.values for trial in found.trials]
    assert (folder / "study.db").is_file()


@pytest.mark.full
def test_a_study_is_continued_from_another_folder_as_from_its_own(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(trials=1, epochs=1, seeds=0, tracking="sqlite:///mlflow.db")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = tune(resume=Path("../study"), trials=2)
    assert [trial.state for trial in found.trials] == ["complete"] * 2
    assert list(elsewhere.iterdir()) == []
    assert found.folder.page.is_file(), "its path holds outside of the folder that the study began in, too"
    assert_nested(f"sqlite:///{tmp_path}/mlflow.db", trials=2)


def test_what_a_study_began_with_stays(tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked in the same study: its settings, its lock, and who began it."""
    from kcv.tasks.tune import tune as verb

    tune(trials=1, epochs=1, seeds=0)
    folder = tmp_path / "study"
    for options, told in (
        ({"optim.lr": "0.1"}, "without --optim.lr"),
        ({"pruner": "median"}, "--pruner: received 'median', allowed with --resume: asha"),
        ({"storage": "postgresql://host/x"}, "--storage: allowed with --resume"),
    ):
        with pytest.raises(UsageError, match=told):
            tune(resume=folder, **options)
    with pytest.raises(UsageError, match="leave out --space"):
        verb(resume=folder, space="space.yaml")
    monkeypatch.setattr(sessions, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for workers, threads in ((2, 4), (1, None)):  # the cores are divided again
        assert Session.resume(folder, Asked(workers=workers), {})._settings.threads == threads
    with lock(folder / "resume" / "lock"), pytest.raises(OutputError, match="another training runs there"):
        tune(resume=folder, trials=2)
    opened_in: list[Path] = []
    monkeypatch.setattr(sessions, "open_tracker", lambda config: opened_in.append(Path.cwd()) or NoTracker())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tune(resume=Path("../study"), trials=1).folder.page.is_file()
    assert opened_in == [tmp_path.resolve()], "relative paths of the configuration start from there"
    assert Path.cwd() == (tmp_path / "elsewhere").resolve()
    assert list(Path().iterdir()) == []
    settings = StudyFolder(folder).read("study")
    StudyFolder(folder).write(settings.model_copy(update={"working_folder": str(tmp_path / "gone")}))
    with pytest.raises(UsageError, match=r"--resume=.*study: the study began in .*gone, which is not there"):
        tune(resume=folder, trials=2)
    StudyFolder(folder).write(settings)
    path = folder / "study.json"
    path.write_text(path.read_text().replace(str(tmp_path), "/elsewhere"))
    with pytest.raises(UsageError, match="nothing shows that you began"):
        tune(resume=folder)
