"""Checkpoints on disk: what is written comes back, the last two are kept, damage is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kcv.errors import DataError, OutputError
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.state import State
from kcv.training.resume.writer import Writer


def state(step: int, best: int = 0) -> State:
    tensors = {"model/00000": torch.full((2, 3), float(step)), "torch": torch.arange(5, dtype=torch.uint8)}
    plain = {"rate": 1.0, "callbacks": {"best": {"best_epoch": best, "best": 0.5}}}
    weights = [np.full((2, 3), best, np.float32)] if best else []
    return State(0, step, tensors, plain, weights)


def test_the_newest_comes_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.newest() is None
    for step in range(5):
        store.save(state(step, best=3))
    found = CheckpointStore(tmp_path).newest()
    assert found is not None
    assert (found.epoch, found.step) == (0, 4)
    assert found.plain == state(4, best=3).plain
    assert torch.equal(found.tensors["model/00000"], torch.full((2, 3), 4.0))
    np.testing.assert_array_equal(found.best[0], np.full((2, 3), 3, np.float32))


def test_the_last_two_are_kept_and_the_best_weights_that_they_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step, best in enumerate((0, 1, 1, 2, 2)):
        store.save(state(step, best))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "best-00000002.safetensors", "checkpoint-00000004.json", "checkpoint-00000004.safetensors",
        "checkpoint-00000005.json", "checkpoint-00000005.safetensors",
    ]  # fmt: skip
    CheckpointStore(tmp_path).save(state(5, 2))  # another process goes on counting
    assert (tmp_path / "checkpoint-00000006.json").is_file()


@pytest.mark.parametrize(
    "victim", ["checkpoint-00000002.safetensors", "checkpoint-00000002.json", "best-00000002.safetensors"]
)
@pytest.mark.parametrize("how", ["cut", "flip", "empty", "gone"])
def test_damage_is_found_and_the_one_before_is_used(victim: str, how: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1, best=1))
    store.save(state(2, best=2))
    path = tmp_path / victim
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        flipped = (
            content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
        )
        path.write_bytes({"cut": content[:-3], "flip": flipped, "empty": b""}[how])
    found = CheckpointStore(tmp_path).newest()
    assert found is not None and found.step == 1
    assert found.best[0][0, 0] == 1


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1))
    store.save(state(2))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        CheckpointStore(tmp_path).newest()


def test_a_checkpoint_without_its_manifest_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1))
    (tmp_path / "checkpoint-00000002.safetensors").write_bytes(b"killed before the manifest")
    found = CheckpointStore(tmp_path).newest()
    assert found is not None and found.step == 1


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    store.save(state(1))
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"not ours")
    manifest = tmp_path / "run" / "checkpoint-00000001.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "best": "../secret.safetensors"}))
    with pytest.raises(DataError):
        CheckpointStore(tmp_path / "run").newest()


def test_a_full_disk_leaves_the_ones_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1))

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space left"):
            store.save(state(2))
    found = CheckpointStore(tmp_path).newest()
    assert found is not None and found.step == 1
    store.save(state(3))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_writer_goes_on_when_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    writer = Writer(CheckpointStore(tmp_path / "file"), every=0)
    for step in range(3):
        writer.offer(lambda step=step: state(step))
    writer.wait()
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "no checkpoint, the training goes on: cannot write" in caplog.text


def test_states_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    writer = Writer(CheckpointStore(tmp_path), every=0)
    broken = state(1)
    broken.tensors["model/00000"][0, 0] = float("nan")
    writer.offer(lambda: broken)
    writer.wait()
    assert CheckpointStore(tmp_path).newest() is None


def test_checkpoints_take_no_more_than_their_share(tmp_path: Path) -> None:
    now = [0.0]

    class Slow(CheckpointStore):
        def save(self, state: State) -> None:
            now[0] += 3.0

    writer = Writer(Slow(tmp_path), every=30, clock=lambda: now[0])
    assert not writer.due
    now[0] = 30
    assert writer.due
    writer.offer(lambda: state(1))
    writer.wait()
    now[0] = 33 + 149
    assert not writer.due  # 3 s are 2% of 150
    now[0] = 33 + 150
    assert writer.due
