"""Faults in the middle of a training: what is lost is at most the time since the last checkpoint."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kcv.config import Config
from kcv.errors import DataError, OutputError
from kcv.inference import outputs
from kcv.inference.opening import load
from kcv.tasks.train import train
from kcv.training.callbacks.checkpoint import Checkpoint
from kcv.training.callbacks.control import Diverged, TerminateOnNaN
from kcv.training.callbacks.logging import ProgressLogger
from kcv.training.run_folder import Run

Configure = Callable[..., Config]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, Callable[[], object]], None]:
    """Returns a function that makes something happen once, after a step of an epoch (both from 0)."""

    def happen(epoch: int, step: int, what: Callable[[], object]) -> None:
        consider, pending = Checkpoint._consider, [what]

        def wrapped(self: Checkpoint, at: int) -> None:
            consider(self, at)
            if (self._epoch, at) == (epoch, step) and pending:
                pending.pop()()

        monkeypatch.setattr(Checkpoint, "_consider", wrapped)

    return happen


def same_weights(first: Run, second: Run) -> bool:
    ours, theirs = (load(run.model_path).keras_model.get_weights() for run in (first, second))
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


STREAMED: dict[str, Any] = {"data.memory_budget_mb": 0, "data.workers": 1, "train.checkpoint_seconds": 0}


@pytest.mark.full
@pytest.mark.parametrize(
    "damage", ["cut", *(pytest.param(damage, marks=pytest.mark.full) for damage in ("deleted", "replaced by a folder"))]
)
def test_an_image_that_breaks_while_training(
    damage: str,
    configure: Configure,
    images: Path,
    undisturbed: Run,
    tmp_path: Path,
    during: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = tmp_path / "own"
    shutil.copytree(images, own)
    victims = [own / "train" / "left" / f"{number:03}.png" for number in range(30)]  # one comes in every batch or two
    contents = [victim.read_bytes() for victim in victims]

    def ruin() -> None:
        for victim, content in zip(victims, contents, strict=True):
            victim.unlink()
            if damage == "cut":
                victim.write_bytes(content[: len(content) // 2])
            elif damage == "replaced by a folder":
                victim.mkdir()

    during(0, 2, ruin)
    with caplog.at_level(logging.INFO, logger="kcv"), pytest.raises(DataError, match=r"train/left/\d{3}\.png"):
        train(configure(data=str(own), output_dir=str(tmp_path / "cut"), **STREAMED))
    assert "to go on: python -m kcv train --resume=" in caplog.text
    for victim, content in zip(victims, contents, strict=True):
        if victim.is_dir():
            victim.rmdir()
        victim.write_bytes(content)
    assert same_weights(undisturbed, train(resume=tmp_path / "cut"))


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_a_reading_process_that_is_killed(configure: Configure, undisturbed: Run, tmp_path: Path, during: Any) -> None:
    def kill() -> None:
        for process in descendants(os.getpid()):
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            if b"forkserver" in command or b"spawn_main" in command:
                os.kill(process, signal.SIGKILL)

    during(1, 1, kill)
    with pytest.raises(DataError, match="a process that reads images died"):
        train(configure(output_dir=str(tmp_path / "cut"), **STREAMED))
    assert same_weights(undisturbed, train(resume=tmp_path / "cut"))


def descendants(process: int) -> list[int]:
    """Returns the processes below a process, the youngest first."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found = [*descendants(child), child, *found]
    return found


def test_a_loss_that_is_no_number_goes_back_at_half_the_rate(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check, seen = TerminateOnNaN.on_epoch_end, []

    def diverge(self: TerminateOnNaN, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seen.append(epoch)
        if epoch == 1 and seen.count(1) == 1:
            for variable in self.model.trainable_variables:
                variable.assign(variable * np.nan)
            logs = {**(logs or {}), "loss": float("nan")}
        check(self, epoch, logs)

    monkeypatch.setattr(TerminateOnNaN, "on_epoch_end", diverge)
    constant = {"optim.schedule": "constant", "optim.warmup_epochs": 0.0, "epochs": 3}
    run = train(configure(**constant, **{"train.on_divergence": "rollback"}))
    assert seen == [0, 1, 1, 2]
    assert [row["learning_rate"] for row in run.history] == pytest.approx([3e-3, 1.5e-3, 1.5e-3])
    assert all(np.isfinite(weight).all() for weight in load(run.model_path).keras_model.get_weights())
    assert (
        "the loss became nan in epoch 2" in caplog.text
        and "back to epoch 2, at 0.5 of the learning rate" in caplog.text
    )


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the weights no numbers after the last step of the second epoch, when its training loss is known."""
    after, pending = Checkpoint.on_train_batch_end, [True]

    def spoil(self: Checkpoint, batch: int, logs: dict[str, Any] | None = None) -> None:
        after(self, batch, logs)
        if (self._epoch, batch) == (1, 5) and pending:
            pending.pop()
            for variable in self.model.trainable_variables:
                variable.assign(variable * np.nan)

    monkeypatch.setattr(Checkpoint, "on_train_batch_end", spoil)


@pytest.mark.full
def test_a_validation_that_is_no_number_ends_and_keeps_what_was_good(
    configure: Configure, spoilt: None, tmp_path: Path
) -> None:
    with pytest.raises(Diverged, match="the validation loss became nan in epoch 2"):
        train(configure(epochs=3))
    model = load(tmp_path / "run" / "model.keras")
    assert model.info.best_epoch == 1
    assert all(np.isfinite(weight).all() for weight in model.keras_model.get_weights())
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 2


@pytest.mark.full
def test_a_validation_that_is_no_number_goes_back(configure: Configure, spoilt: None) -> None:
    run = train(configure(epochs=2, **{"train.on_divergence": "rollback"}))
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert all(np.isfinite(list(row.values())).all() for row in run.history)


def test_answers_that_are_no_numbers_in_the_end_are_one_line(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = outputs.logits
    monkeypatch.setattr(outputs, "logits", lambda *args, **named: logits(*args, **named) * np.float32("inf"))
    with pytest.raises(Diverged, match="answers to 24 of 24 images are no numbers"):
        train(configure(epochs=1))


@pytest.mark.full
def test_a_training_that_always_diverges_ends(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def diverge(self: TerminateOnNaN, epoch: int, logs: dict[str, Any] | None = None) -> None:
        tries.append(epoch)
        raise Diverged("the loss became nan in epoch 1")

    monkeypatch.setattr(TerminateOnNaN, "on_epoch_end", diverge)
    with pytest.raises(Diverged):
        train(configure(**{"train.on_divergence": "rollback"}))
    assert tries == [0, 0, 0, 0]


def test_a_disk_too_small_for_the_run_is_found_before(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**7))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"10 MB are free on the disk, and the run needs up to \d+ MB"):
        train(configure())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB that can be filled and made read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True, check=False
    ) if shutil.which("mount") else None  # fmt: skip
    if mounted is None or mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


SMALL: dict[str, Any] = {"model.width": 0.25, "train.checkpoint_seconds": 0}


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass
    return ballast


@pytest.mark.full
def test_a_disk_that_fills_up_loses_nothing(
    configure: Configure, small_disk: Path, tmp_path: Path, during: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(configure(output_dir=str(tmp_path / "whole"), **SMALL))
    during(0, 3, lambda: fill(small_disk))
    with caplog.at_level(logging.INFO, logger="kcv"), pytest.raises(OutputError, match="No space left"):
        train(configure(output_dir=str(small_disk / "run"), **SMALL))
    assert caplog.text.count("no checkpoint, the training goes on: cannot write") == 1
    assert "to go on: python -m kcv train --resume=" in caplog.text
    (small_disk / "ballast").unlink()
    assert same_weights(whole, train(resume=small_disk / "run"))


@pytest.mark.full
def test_a_disk_that_has_room_again_gets_checkpoints_again(
    configure: Configure, small_disk: Path, during: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    during(0, 2, lambda: fill(small_disk))
    during(0, 4, (small_disk / "ballast").unlink)
    run = train(configure(output_dir=str(small_disk / "run"), **SMALL))
    assert "no checkpoint, the training goes on" in caplog.text
    assert run.metrics["n"] == 24


def test_a_read_only_folder_is_one_line(configure: Configure, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match=r"cannot make the run folder .*Read-only file system"):
        train(configure(output_dir=str(small_disk / "run"), **SMALL))


def test_two_new_runs_do_not_share_a_folder(configure: Configure, tmp_path: Path) -> None:
    from kcv.training.resume.lock import lock

    with lock(tmp_path / "run" / "resume" / "lock"), pytest.raises(OutputError, match="another training runs there"):
        train(configure())


def test_the_bar_is_gone_after_a_fault(configure: Configure, during: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    close = ProgressLogger.close
    monkeypatch.setattr(ProgressLogger, "close", lambda self: (closed.append(True), close(self))[1])

    def fail() -> None:
        raise DataError("something broke")

    during(0, 1, fail)
    with pytest.raises(DataError):
        train(configure())
    assert closed


@pytest.mark.full
def test_a_record_says_what_the_run_began_with(configure: Configure, during: Any, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    during(0, 1, lambda: seen.update(json.loads((tmp_path / "run" / "resume" / "run.json").read_text())))
    train(configure())
    assert seen["counts"] == {"train": 90, "val": 24, "test": 24}
    assert seen["config"]["optim.lr"] == 3e-3
    assert seen["surroundings"]["packages"]["keras"] == keras.__version__
