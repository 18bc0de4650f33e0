"""Training on a bucket: as on the same files on disk, over a line with faults, through kills, in several processes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from interrupted import assert_same, disturb, stopped_at
from s3_server import S3
from warm import Child, WarmPython

from kcv.cli import main
from kcv.config import Config
from kcv.errors import DataError
from kcv.training.run_folder import Run

Configure = Callable[..., Config]
Command = Callable[..., object]


@pytest.fixture
def configured(configure: Configure, tmp_path: Path) -> Configure:
    """Returns a function that makes the configuration of a run that streams its images."""

    def make(name: str, data: str, **overrides: object) -> Config:
        streamed = {"data.memory_budget_mb": 0, "data.workers": 0, "augment.crop_padding": 1}
        return configure(data=data, output_dir=str(tmp_path / name), **{**streamed, **overrides})

    return make


def badly(tries: Counter[str]) -> Callable[[str], str | None]:
    """Returns faults for every other try of an object: what comes broken, comes whole the next time."""

    def fault(request: str) -> str | None:
        tries[request] += 1
        return ("500", "cut", "503")[len(tries) % 3] if tries[request] % 2 else None

    return fault


def test_a_run_that_was_stopped_goes_on_as_on_disk_through_faults(
    s3: S3, bucket: str, few: Path, configured: Configure
) -> None:
    from kcv.tasks.train import train

    theirs = train(configured("disk", str(few), epochs=2, batch_size=4))
    config = configured("bucket", f"s3://{bucket}/photos", epochs=2, batch_size=4)
    tries: Counter[str] = Counter()
    s3.fault = badly(tries)
    with stopped_at(1, 1, "kill"), pytest.raises(SystemExit):
        train(config)
    disturb()
    ours = train(config, resume=config.output_dir)
    assert_same(ours, theirs)
    assert max(tries.values()) > 2
    written = "".join(file.read_text(errors="replace") for file in ours.directory.glob("*.*"))
    assert "s3cr3t" not in written and "AKIAMOTO" not in written
    assert f"s3://{bucket}/photos" in (ours.directory / "config.yaml").read_text()


@pytest.mark.full
@pytest.mark.parametrize("kind", ["parquet", "shards"])
def test_files_of_many_images_are_streamed_and_resumed_bit_for_bit(
    s3: S3, bucket: str, configured: Configure, kind: str
) -> None:
    from kcv.tasks.train import train

    data = f"s3://{bucket}/{kind}"
    whole = train(configured("whole", data, epochs=2, batch_size=4))
    config = configured("stopped", data, epochs=2, batch_size=4)
    with stopped_at(1, 1, "kill"), pytest.raises(SystemExit):
        train(config)
    disturb()
    s3.fault = badly(Counter())
    assert_same(train(config, resume=config.output_dir), whole)


def test_objects_that_changed_between_are_refused(s3: S3, bucket: str, few: Path, configured: Configure) -> None:
    from kcv.tasks.train import train

    own = s3.bucket()
    for file in few.rglob("*.png"):
        s3.put(own, file.relative_to(few).as_posix(), file.read_bytes())
    config = configured("changed", f"s3://{own}", epochs=2, batch_size=4)
    with stopped_at(0, 2, "kill"), pytest.raises(SystemExit):
        train(config)
    content = bytearray(s3.get(own, "train/top/001.png"))
    content[-20] ^= 1  # as many bytes as before
    s3.put(own, "train/top/001.png", bytes(content))
    with pytest.raises(DataError, match="has changed since the run began: as many images, but others"):
        train(config, resume=config.output_dir)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("s3://no-such-bucket/x", "there is no such bucket at http://127.0.0.1"),
        ("s3://{}/nothing", "there is no such object, and none below that prefix"),
        ("s3://{}/photos/labels.tsv", "there is no such object, and none below that prefix"),
        ("s3://me:s3cr3t@{}/photos", "holds a user, a password or a query"),
    ],
)
def test_bad_places_are_one_line_and_leave_no_run_folder(
    s3: S3, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, told: str
) -> None:
    folder = tmp_path / "run"
    assert main(["train", f"--data={data.format(bucket)}", f"--output_dir={folder}", "--tracking=none"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert "s3cr3t" not in error
    assert not folder.exists()


def test_a_store_that_refuses_is_one_line(
    s3: S3, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fault, told in (("403", "may not be listed: these credentials have no right to it (AccessDenied)"),
                        ("500", "cannot be read after 6 tries (500: Internal Server Error)")):  # fmt: skip
        s3.fault = lambda request, fault=fault: fault  # type: ignore[misc]
        assert main(["train", f"--data=s3://{bucket}/photos", f"--output_dir={tmp_path / 'run'}"]) == 2
        error = capsys.readouterr().err.splitlines()
        assert told in error[-1]
    assert not (tmp_path / "run").exists()


def test_the_other_verbs_take_a_bucket_too(
    s3: S3, bucket: str, few: Path, trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(data: str) -> dict[str, object]:
        assert main(["evaluate", str(trained_run.directory), f"--data={data}", "--plots=false", "--format=json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return {key: found[key] for key in ("n", "accuracy", "log_loss")}

    assert measured(f"s3://{bucket}/photos") == measured(str(few))
    assert main(["check", f"s3://{bucket}/photos", "--format=json"]) in (0, 1)
    ours = json.loads(capsys.readouterr().out)
    assert ours["pictures"] == json.loads(_checked(few, capsys))["pictures"]


def _checked(few: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main(["check", str(few), "--format=json"])
    return capsys.readouterr().out


@pytest.mark.full
def test_a_model_file_alone_does_not_make_kcv_ask_a_bucket(
    s3: S3, bucket: str, configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kcv.tasks.train import train

    # In memory: `evaluate` would have streamed images read by a process that may be older than this test's store.
    run = train(configured("mine", f"s3://{bucket}/photos", epochs=1, **{"data.memory_budget_mb": 64}))
    s3.asked.clear()
    assert main(["evaluate", str(run.model_path), "--plots=false"]) == 2
    assert "is fetched only where you name it: --data=s3://" in capsys.readouterr().err
    assert s3.asked == []
    assert main(["evaluate", str(run.model_path), "--plots=false", f"--data=s3://{bucket}/photos"]) == 0


def _words(bucket: str, folder: Path, workers: int) -> list[str]:
    return [
        "train", f"--data=s3://{bucket}/photos", f"--output_dir={folder}", "--epochs=6", "--batch_size=4",
        "--precision=float32", "--device=cpu", "--tracking=none", "--model.width=0.125", "--train.checkpoint_seconds=0",
        "--train.plots=false", "--data.memory_budget_mb=0", f"--data.workers={workers}", "--augment.crop_padding=1",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_killed_at_any_moment_it_goes_on_through_faults(
    s3: S3, bucket: str, warm: WarmPython, start: Callable[..., Child], tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    done = start(*_words(bucket, whole, 0), merge=True).finished()
    assert done.returncode == 0, done.stdout
    s3.fault = badly(Counter())
    words, seen = _words(bucket, folder, 0), 0
    for _ in range(3):
        running = start(*words, merge=True)
        while len(list(folder.glob("resume/checkpoint-*.json"))) == 0 or len(s3.asked) < seen + 20:
            assert running.poll(0.01) is None, running.communicate()[0]
        time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
        words, seen = ["train", f"--resume={folder}"], len(s3.asked)
    done = start(*words, merge=True).finished()
    assert done.returncode == 0, done.stdout
    assert (folder / "metrics.json").read_text() == (whole / "metrics.json").read_text()


@pytest.mark.long
def test_several_processes_read_their_share(s3: S3, bucket: str, warm: WarmPython, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert warm.start("kcv", _words(bucket, one, 1), folder=tmp_path, merge=True).finished().returncode == 0
    s3.heal()
    s3.fault = badly(Counter())
    ranks = warm.together("kcv", _words(bucket, two, 1), folder=tmp_path)
    assert [done.returncode for done in ranks] == [0, 0], ranks
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (two, one))
    assert ours["n"] == theirs["n"]
