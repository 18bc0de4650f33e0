"""What a checkpoint must hold: damage and odd content are passed over, and never used without a word."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from made_states import PLAN, STEPS, made_state
from variants import variants

from kcv.config import Config
from kcv.errors import DataError
from kcv.tasks.train import train
from kcv.training.callbacks.checkpoint import Checkpoint
from kcv.training.loop import Stage
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.content import Plan
from kcv.training.resume.record import Record
from kcv.training.resume.state import State

Plain = dict[str, Any]
Tensors = dict[str, torch.Tensor]
MUTATIONS = 1000


def same(one: State, other: State) -> bool:
    alike = one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )
    arrays = len(one.best) == len(other.best) and all(map(lambda a, b: (a == b).all(), one.best, other.best))
    return alike and bool(arrays) and (one.epoch, one.step, one.plain) == (other.epoch, other.step, other.plain)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Returns a content that differs: a bit, a byte, a piece that is gone, doubled or of zeros, or another digit."""
    changed, place = bytearray(content), rng.randrange(len(content))
    match rng.randrange(6):
        case 0:
            changed[place] ^= 1 << rng.randrange(8)
        case 1:
            changed[place] = rng.randrange(256)
        case 2:
            del changed[place : place + rng.randrange(1, 40)]
        case 3:
            changed[place:place] = changed[place : place + rng.randrange(1, 40)]
        case 4:
            length = rng.randrange(1, 40)
            changed[place : place + length] = bytes(len(changed[place : place + length]))
        case _:
            digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
            changed[rng.choice(digits)] = ord(rng.choice("0123456789"))
    return bytes(changed)


@pytest.fixture
def saved(tmp_path: Path) -> State:
    """The only checkpoint of a folder."""
    CheckpointStore(tmp_path).save(made_state())
    found = CheckpointStore(tmp_path).newest(PLAN.check)
    assert found is not None
    return found


def without_checksum(manifest: Path) -> None:
    """Makes a manifest as earlier versions wrote it."""
    content = json.loads(manifest.read_text())
    del content["sha256"]
    manifest.write_text(json.dumps(content, indent=2) + "\n")


@pytest.mark.parametrize(
    "file", variants(["state", "manifest", "manifest of earlier versions", "best weights"], fast=1)
)
def test_no_mutation_is_used(file: str, saved: State, tmp_path: Path) -> None:
    logging.getLogger("kcv").setLevel(logging.ERROR)  # a line a mutation would take longer than all else
    manifest = tmp_path / "checkpoint-00000001.json"
    if "earlier" in file:
        without_checksum(manifest)
        found = CheckpointStore(tmp_path).newest(PLAN.check)
        assert found is not None and same(found, saved)
    names = {"state": "checkpoint-00000001.safetensors", "best weights": "best-00000001.safetensors"}
    victim = tmp_path / names.get(file, manifest.name)
    content, rng, refused = victim.read_bytes(), random.Random(5), 0
    for number in range(MUTATIONS):
        victim.write_bytes(mutated(content, rng))
        try:
            found = CheckpointStore(tmp_path).newest(PLAN.check)
        except DataError:
            refused += 1
        else:
            assert found is not None and same(found, saved), f"mutation {number} was used"
    assert refused > MUTATIONS / 2  # the others changed nothing: a digit by itself, a space in the JSON


def test_no_mutation_of_the_record_is_used(tmp_path: Path) -> None:
    record = Record(
        config={"train.epochs": 5, "optim.lr": 0.003, "tracking.uri": None},
        fingerprint="f" * 64,
        counts={"train": 90, "val": 24},
        device="cpu",
        precision="float32",
        surroundings={"kcv": "1.0", "packages": {"torch": "2.0"}},
        tracking={"location": None, "run": None},
    )
    path = tmp_path / "run.json"
    record.write(path)
    content, rng, refused = path.read_bytes(), random.Random(6), 0
    for number in range(MUTATIONS):
        path.write_bytes(mutated(content, rng))
        try:
            found = Record.read(path)
        except DataError:
            refused += 1
        else:
            found = found.model_copy(update={"sha256": None, "signature": None})
            assert found == record, f"mutation {number} was used"
    assert refused > MUTATIONS / 2


def test_a_flipped_bit_of_the_epoch_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    store.save(made_state(2, 3))
    store.save(made_state(2, 4))
    manifest = tmp_path / "checkpoint-00000002.json"
    manifest.write_text(manifest.read_text().replace('"epoch": 2', '"epoch": 6'))
    found = CheckpointStore(tmp_path).newest(PLAN.check)
    assert found is not None and (found.epoch, found.step) == (2, 3)
    assert "checkpoint-00000002 is damaged" in caplog.text


@pytest.mark.parametrize("key", ["epoch", "step"])
@pytest.mark.parametrize(
    "value", ["-1", "0", "7", "1000000000", "1e400", "NaN", '"2"', "null", "2.5", "true", "[" * 9999]
)
def test_a_place_that_does_not_fit_is_damage_also_without_a_checksum(
    key: str, value: str, saved: State, tmp_path: Path
) -> None:
    manifest = tmp_path / "checkpoint-00000001.json"
    without_checksum(manifest)
    before = f'"{key}": {getattr(saved, key)}'
    assert before in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(before, f'"{key}": {value}'))
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        CheckpointStore(tmp_path).newest(PLAN.check)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "nothing", '{"files": null, "epoch": 1, "step": 1}', "\xff", '{"epoch": 1, "epoch": 2}']
)
def test_a_manifest_of_another_kind_is_damage(text: str, saved: State, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000001.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        CheckpointStore(tmp_path).newest(PLAN.check)


def put(path: str, value: Any) -> Callable[[Plain, Tensors], None]:
    """Returns a change of a plain value; `gone` takes it away."""

    def change(plain: Plain, tensors: Tensors) -> None:
        *way, last = path.split("/")
        place: Any = plain
        for key in way:
            place = place[int(key) if isinstance(place, list) else key]
        key = int(last) if isinstance(place, list) else last
        if value == "gone":
            del place[key]
        else:
            place[key] = value

    return change


def tensor(name: str, value: torch.Tensor | None) -> Callable[[Plain, Tensors], None]:
    """Returns a change of a tensor; None takes it away."""

    def change(plain: Plain, tensors: Tensors) -> None:
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


ODD: dict[str, Callable[[Plain, Tensors], None]] = {
    "no numpy state": put("numpy", "gone"),
    "no callbacks": put("callbacks", "gone"),
    "callbacks of another kind": put("callbacks", [1]),
    "no history": put("callbacks/history", "gone"),
    "another callback": put("callbacks/mine", {}),
    "rows of another kind": put("callbacks/history/rows", [{"epoch": 1}, {"epoch": 2}]),
    "rows that are numbers": put("callbacks/history/rows", [1, 2]),
    "a row too few": put("callbacks/history/rows/1", "gone"),
    "a row of another epoch": put("callbacks/history/rows/1/epoch", 1),
    "best epoch to come": put("callbacks/best/best_epoch", 10**9),
    "best epoch before any": put("callbacks/best/best_epoch", 0),
    "best epoch as text": put("callbacks/best/best_epoch", "1"),
    "seconds below zero": put("callbacks/clock/seconds", -1),
    "rate as text": put("rate", "1.0"),
    "rate zero": put("rate", 0),
    "rate endless": put("rate", float("inf")),
    "seven processes": put("processes", 7),
    "no process": put("processes", 0),
    "a billion processes": put("processes", 10**9),
    "numpy of another kind": put("numpy/0", "MT19938"),
    "numpy's place": put("numpy/1", 10**6),
    "numpy's place below zero": put("numpy/1", -1),
    "numpy's place as text": put("numpy/1", "5"),
    "numpy's state short": put("numpy/3", "gone"),
    "numpy tensor too large": tensor("numpy", torch.full((624,), 2**40)),
    "python's version": put("python/0", 9),
    "no numpy tensor": tensor("numpy", None),
    "numpy tensor short": tensor("numpy", torch.zeros(3, dtype=torch.int64)),
    "python tensor short": tensor("python", torch.zeros(3, dtype=torch.int64)),
    "python tensor of fractions": tensor("python", torch.rand(625)),
    "torch state short": tensor("torch", torch.zeros(5, dtype=torch.uint8)),
    "torch state of zeros": tensor("torch", torch.zeros(5056, dtype=torch.uint8)),
    "no torch state": tensor("torch", None),
    "no state of Keras": tensor("keras/00000", None),
    "state of Keras longer": tensor("keras/00000", torch.zeros(3, dtype=torch.int64)),
    "optimizer elsewhere": tensor("optimizer/00000", torch.tensor(1)),
    "no optimizer": tensor("optimizer/00000", None),
    "an unknown tensor": tensor("mine", torch.zeros(1)),
    "of a process that is not there": tensor("rank1/torch", torch.zeros(1)),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in ODD.items()])
def test_odd_content_with_right_checksums_is_damage(change: Callable[[Plain, Tensors], None], tmp_path: Path) -> None:
    state = made_state()
    plain, tensors = copy.deepcopy(dict(state.plain)), dict(state.tensors)
    change(plain, tensors)
    forged = replace(state, plain=plain, tensors=tensors)
    with pytest.raises(DataError):
        PLAN.check(forged)
    path, manifest = tmp_path / "checkpoint-00000001.safetensors", tmp_path / "checkpoint-00000001.json"
    CheckpointStore(tmp_path).save(state)
    content = safetensors.torch.save(tensors, {"plain": json.dumps(plain)})
    path.write_bytes(content)
    without_checksum(manifest)
    values = json.loads(manifest.read_text())
    values["files"][path.name] = hashlib.sha256(content).hexdigest()
    manifest.write_text(json.dumps(values))
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        CheckpointStore(tmp_path).newest(PLAN.check)


def test_every_place_of_a_run_is_accepted() -> None:
    for epoch in range(9):
        for step in range(STEPS + 1):
            PLAN.check(made_state(epoch, step))
    for epoch, step in ((9, 0), (0, STEPS + 1)):
        with pytest.raises(DataError, match="is not in this run"):
            PLAN.check(made_state(epoch, step))


def test_the_second_stage_counts_its_own_steps_and_may_wait() -> None:
    stages = (Stage(0, 2, frozen=True, last=False), Stage(2, 9, frozen=False, last=True))
    plan = Plan(stages=stages, steps=STEPS, patience=True, counts_steps=True)
    PLAN.check(made_state(3, 1))
    plan.check(made_state(1, 2))  # the first stage does not wait
    state = made_state(3, 1)
    state.tensors["optimizer/00000"].fill_(STEPS + 1)
    with pytest.raises(DataError, match="how long the training has waited"):
        plan.check(state)
    state.plain["callbacks"]["patience"] = {"wait": 1, "best": 0.5, "best_epoch": 1}
    plan.check(state)


def test_a_loss_that_is_no_number_is_no_damage(tmp_path: Path) -> None:
    state = made_state()
    state.plain["callbacks"]["history"]["rows"][0]["val_loss"] = float("nan")
    CheckpointStore(tmp_path).save(state)
    assert CheckpointStore(tmp_path).newest(PLAN.check) is not None


def test_a_state_of_several_processes_holds_the_parts_of_all() -> None:
    state = made_state()
    parts = {f"rank1/{name}": state.tensors[name] for name in ("metrics/00000", "torch")}
    both = replace(state, tensors={**state.tensors, **parts}, plain={**state.plain, "processes": 2})
    PLAN.check(both)
    with pytest.raises(DataError, match="process"):
        PLAN.check(replace(both, tensors={**both.tensors, "rank1/torch": torch.zeros(3)}))


def test_links_are_not_followed(saved: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-00000001.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        CheckpointStore(tmp_path).newest(PLAN.check)


@pytest.mark.full
def test_every_state_of_a_real_training_is_accepted(
    configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: dict[str, Any] = {"model.unfreeze_after": 1, "model.weights": "none"}
    config = configure(**stages, **{"epochs": 3, "train.ema": 0.9, "train.patience": 3, "train.calibrate": False})
    checked = []

    def check(self: Any, step: int) -> None:
        plan = Plan.of(config, Record.read(tmp_path / "run" / "resume" / "run.json"))
        plan.check(self._capture(step))
        checked.append((self._epoch, step))

    monkeypatch.setattr(Checkpoint, "_consider", check)
    train(config)
    assert checked == [(epoch, step) for epoch in range(3) for step in range(7)]
