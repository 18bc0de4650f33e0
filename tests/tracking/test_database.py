"""What an SQLite file may be that lies in the working folder, and where it may have a run's files put."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest
from warm import WarmPython

from kcv.config import TrackingConfig
from kcv.errors import TrackingError
from kcv.tracking import MlflowTracker, open_tracker
from kcv.tracking.mlflow_database import Database


def of(uri: str, *, named: bool = False) -> Database:
    found = Database.of(uri, named=named)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["what?", "my%20work", "100%", "a#b", "ünï code", "a;b&c=d+e", "x" * 200])
def test_the_database_is_in_the_working_folder_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from sqlalchemy.engine import make_url

    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    database = of("sqlite:///mlflow.db")
    assert database.path == folder / "mlflow.db"
    assert make_url(database.uri).database == str(folder / "mlflow.db")
    assert database.problem() is None
    assert of(database.location).path == database.path  # it can be named again
    assert of(database.location).location == database.location


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        ("{here}/mlartifacts", True),
        ("file://{here}/mlartifacts", True),
        ("{here}/mlruns/3", True),
        ("file://{here}/mlartifacts/../../elsewhere", False),
        ("file:///tmp/elsewhere", False),
        ("{here}", False),
        ("{here}/.git", False),
        ("{here}/linked", False),
        ("{here}/mlartifacts/linked", False),
        ("s3://bucket/mlartifacts", False),
        ("ftp://host{here}/mlartifacts", False),
        ("mlflow-artifacts:/x", False),
        ("", False),
        ("file://{here}/mlartifacts\0", False),
    ],
)
def test_a_database_that_nobody_named_has_files_put_beside_it_alone(tmp_path: Path, place: str, allowed: bool) -> None:
    (tmp_path / "here" / "mlartifacts").mkdir(parents=True)
    for link in ("linked", "mlartifacts/linked"):
        (tmp_path / "here" / link).symlink_to(tmp_path)
    database = of(f"sqlite:///{tmp_path}/here/mlflow.db")
    place = place.format(here=tmp_path / "here")
    assert (database.refusal(place) is None) == allowed
    assert of(f"sqlite:///{tmp_path}/here/mlflow.db", named=True).refusal(place) is None


def test_a_linked_folder_or_file_of_artifacts_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mlartifacts").symlink_to(tmp_path)
    database = of(f"sqlite:///{tmp_path}/here/mlflow.db")
    assert database.refusal(str(tmp_path / "here" / "mlartifacts")) is not None
    (tmp_path / "here" / "mlruns").mkdir()
    (tmp_path / "here" / "mlruns" / "model.keras").symlink_to(tmp_path / "model.keras")
    assert database.refusal(str(tmp_path / "here" / "mlruns"), "model.keras") is not None
    assert database.refusal(str(tmp_path / "here" / "mlruns"), "plots", "model.keras") is None


def test_files_that_are_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = of("sqlite:///mlflow.db")
    os.mkfifo("mlflow.db")  # would hold whoever opens it
    assert "no regular file" in str(database.problem())
    os.unlink("mlflow.db")
    with sqlite3.connect("mlflow.db") as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    before = Path("mlflow.db").read_bytes()
    assert "a database of another program" in str(database.problem())
    with pytest.raises(TrackingError, match="a database of another program"):
        open_tracker(TrackingConfig()).start("run", {}, {})
    assert Path("mlflow.db").read_bytes() == before
    Path("mlflow.db").rename(tmp_path.parent / "elsewhere.db")
    os.symlink(tmp_path.parent / "elsewhere.db", "mlflow.db")
    assert "is a link out of its folder" in str(database.problem())


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # the test writes through MLflow's client itself
def test_no_file_goes_where_a_strangers_database_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    folder, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("kcv", artifact_location=elsewhere.as_uri())
    run = client.create_run(experiment).info.run_id
    model = tmp_path / "model.keras"
    model.write_bytes(b"model")
    with pytest.raises(TrackingError, match="not beside mlflow"):
        open_tracker(TrackingConfig()).start("run", {}, {})
    other = open_tracker(TrackingConfig(experiment="other"))
    other.load_state_dict({"location": other.location, "run": run})  # as a stranger's run folder may have it
    other.start("run", {}, {})
    other.log_artifacts(model)
    other.finish()
    assert not elsewhere.exists()
    named = MlflowTracker(f"sqlite:///{folder}/mlflow.db", "kcv")
    named.start("run", {}, {})
    named.log_artifacts(model)
    named.finish()
    assert [path.name for path in elsewhere.rglob("*.keras")] == ["model.keras"]


@pytest.mark.long
def test_two_first_runs_on_one_database_both_succeed(warm: WarmPython, images: Path, tmp_path: Path) -> None:
    words = [f"--data={images}", "--epochs=1", "--batch_size=16", "--model.width=0.25", "--train.plots=false"]
    words += ["--precision=float32", "--device=cpu", f"--tracking=sqlite:///{tmp_path}/mlflow.db"]
    children = [
        warm.start("kcv", ["train", *words, f"--output_dir={name}"], folder=tmp_path) for name in ("one", "two")
    ]
    for child in children:
        finished = child.finished()
        assert finished.returncode == 0, finished.stderr
        assert "tracking:" not in finished.stderr  # nothing was refused, left out or kept for later
        assert "Traceback" not in finished.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        runs = database.execute("SELECT name, status FROM runs ORDER BY name").fetchall()
        figures = database.execute("SELECT run_uuid, count(*) FROM metrics GROUP BY run_uuid").fetchall()
        experiments = database.execute("SELECT count(*) FROM experiments WHERE name = 'kcv'").fetchone()
    assert runs == [("one", "FINISHED"), ("two", "FINISHED")]
    assert len(figures) == 2 and figures[0][1] == figures[1][1] > 0
    assert experiments == (1,)
