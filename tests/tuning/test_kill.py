"""`kcv tune` as processes that are killed: with SIGKILL, at any moment."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from warm import PATIENCE, Child

pytest.importorskip("optuna", reason="needs the extra kcv[tune]")

WORDS = (
    "--model=custom_cnn", "--model.width=0.25", "--epochs=6", "--batch_size=16", "--precision=float32", "--device=cpu",
    "--tracking=none", "--train.checkpoint_seconds=0",
)  # fmt: skip

Starter = Callable[..., Child]


def endless(images: Path, start: Starter, tmp_path: Path) -> tuple[Child, Path]:
    """Starts a search whose only trial does not end; returns it and the trial's folder, once that has an epoch."""
    child = start(
        "tune",
        f"--data={images}",
        *WORDS[:2],
        *WORDS[3:],
        "--epochs=100000",
        "--trials=1",
        "--seeds=0",
        "--output_dir=study",
    )
    run = tmp_path / "study" / "trials" / "000"
    while not (run / "history.csv").exists():
        assert child.poll(0.05) is None, child.errors
    return child, run


def rows_of(folder: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((folder / "trials.csv").read_text().splitlines())
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


@pytest.mark.long
def test_a_search_killed_five_times_ends_with_the_same_study(images: Path, start: Starter, tmp_path: Path) -> None:
    words = ("tune", f"--data={images}", *WORDS, "--trials=4", "--seeds=0")
    undisturbed = start(*words, "--output_dir=undisturbed").finished()
    assert undisturbed.returncode == 0, undisturbed.stderr
    chance = random.Random(0)
    child = start(*words, "--output_dir=killed")
    for kill in range(5):
        folder = tmp_path / "killed"
        while not (folder / "study.db").exists() or not list(folder.glob("trials/*/history.csv")):
            assert child.poll(0.05) is None, child.errors
        done = len(list(folder.glob("trials/*/metrics.json")))
        if kill % 2:  # with a trial that has gone on since the last kill
            while len(list(folder.glob("trials/*/metrics.json"))) == done and child.poll(0.05) is None:
                pass
        if child.poll(chance.uniform(0, 4)) is not None:
            break
        child.kill()
        child.wait()
        child = start("tune", "--resume=killed")
    finished = child.finished()
    assert finished.returncode == 0, finished.stderr
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "undisturbed")


@pytest.mark.long
def test_trials_end_with_a_killed_coordinator(images: Path, start: Starter, tmp_path: Path) -> None:
    child, run = endless(images, start, tmp_path)
    child.kill()
    child.wait()
    deadline = time.monotonic() + PATIENCE
    while "stopping after this step" not in run.with_suffix(".log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (run / "resume" / "run.json").exists()


@pytest.mark.long
def test_ctrl_c_stores_everything_and_says_how_to_go_on(images: Path, start: Starter, tmp_path: Path) -> None:
    child, _ = endless(images, start, tmp_path)
    child.send_signal(signal.SIGINT)
    done = child.finished()
    assert done.returncode == 130
    assert "to go on: python -m kcv tune --resume=study" in done.stderr
    assert (tmp_path / "study" / "study.html").exists()


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL on loopback, started for this test; as another user where root runs the tests."""
    pytest.importorskip("psycopg2", reason="needs psycopg2")
    if missing := [name for name in ("initdb", "pg_ctl") if shutil.which(name) is None]:
        pytest.skip(f"needs PostgreSQL: {', '.join(missing)}")
    who: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="kcv-postgres-"))
    if os.geteuid() == 0:  # which PostgreSQL refuses
        import pwd

        try:
            found = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("needs a user named postgres, as root runs the tests")
        os.chown(folder, found.pw_uid, found.pw_gid)
        who = {"user": found.pw_uid, "group": found.pw_gid}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="

    def run(*words: str) -> None:
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, **who)

    run("initdb", "-D", "data", "-U", "me", "-A", "trust", "--no-sync")
    run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_two_machines_share_a_study_and_one_is_killed(
    images: Path, start: Starter, tmp_path: Path, postgres: str
) -> None:
    url = f"--storage={postgres}"
    words = ("tune", f"--data={images}", *WORDS, "--trials=6", "--pruner=none", "--seeds=0", url)
    first, second = (start(*words, f"--output_dir={name}") for name in ("one", "two"))
    while not list((tmp_path / "two").glob("trials/*/history.csv")):
        assert second.poll(0.1) is None, second.errors
    second.kill()
    second.wait()
    assert first.finished().returncode == 0, first.errors
    third = start("tune", "--resume=two", url).finished()
    assert third.returncode == 0, third.stderr
    rows = rows_of(tmp_path / "two")
    assert [row["state"] for row in rows] == ["complete"] * 6
    for name in ("one", "two"):
        assert list((tmp_path / name / "trials").glob("*/metrics.json"))
    kept = "".join(path.read_text() for name in ("one", "two") for path in (tmp_path / name).glob("*.json"))
    assert "secret" not in kept + first.errors + second.errors + third.stderr
