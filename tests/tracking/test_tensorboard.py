"""Runs as TensorBoard's event files, read by TensorBoard itself."""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kcv.config import TrackingConfig
from kcv.errors import TrackingError
from kcv.tracking import DataRecord, Tracker, open_tracker

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs kcv[tensorboard]"),
    pytest.mark.filterwarnings("ignore"),  # of TensorBoard's own packages
]

Messages = Callable[[], list[str]]
Until = Callable[[Callable[[], object]], None]
RECORD = DataRecord("<b>photos|", "train", "a" * 32, "/photos", "path", 10, 32, "f" * 64, {"a": 4, "b": 6})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def track(state: dict[str, str | None] | None = None, *, name: str = "mine", uri: str = "tensorboard:logs") -> Tracker:
    tracker = open_tracker(TrackingConfig(uri=uri))
    tracker.load_state_dict(state or {})
    tracker.start(
        name, {"optim.lr": 0.1, "model.name": "a|<b>", "data.fold": None}, {"note": "a note", "device": "cpu"}
    )
    return tracker


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"tensors": 100}).Reload()


def steps(found: Any, metric: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(metric)]


def test_a_run_is_a_folder_that_a_resumed_run_goes_on_in(tmp_path: Path, messages: Messages, spools: Path) -> None:
    (tmp_path / "run" / "plots").mkdir(parents=True)
    Image.new("RGBA", (30, 20)).save(tmp_path / "run" / "plots" / "curve.png")
    (tmp_path / "run" / "a.txt").write_text("a")
    first = track()
    first.log_datasets([RECORD])
    for epoch in (1, 2, 3):
        first.log_metrics({"loss": 1 / epoch, "val_accuracy": epoch / 4}, epoch)
    first.finish("KILLED")
    second = track(first.state_dict())
    assert second.state_dict() == first.state_dict()
    second.log_metrics({"loss": 9.0, "val_accuracy": 9.0}, 3)  # since the last checkpoint, once more
    second.log_metrics({"loss": 0.25, "val_accuracy": 1.0}, 4)
    second.log_metrics({"test_accuracy": 0.5}, 2)
    second.log_artifacts(tmp_path / "run")
    second.finish()
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["mine"]
    found = read(tmp_path / "logs" / "mine")
    assert steps(found, "val_accuracy") == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert steps(found, "loss")[2][1] == pytest.approx(1 / 3)
    assert steps(found, "test_accuracy") == [(2, 0.5)]
    (image,) = found.Images("plots/curve")
    assert (image.width, image.height) == (30, 20)
    texts = {tag: found.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert "| model.name | a&#124;&lt;b&gt; |" in texts["parameters/text_summary"]
    assert "| name | &lt;b&gt;photos&#124; |" in texts["data/train/text_summary"]
    assert (texts["note/text_summary"], texts["status/text_summary"]) == ("a note", "FINISHED")
    parameters = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optim.lr" in parameters
    assert messages() == []
    assert list(spools.iterdir()) == []


def test_another_run_of_the_same_name_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("../a:b", "../a:b", "..."):
        track(name=name).finish()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["_a_b", "_a_b_2", "run"]


def test_a_folder_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    with pytest.raises(TrackingError, match=r"file/logs: Not a directory"):
        track(uri="tensorboard:file/logs")


def test_a_full_disk_costs_no_training_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: Messages, until: Until
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setattr("kcv.tracking.sender.FIRST_PAUSE", 0.05)
    tracker = track()
    tries: list[str] = []

    def fail(*_: object) -> None:
        tries.append("a try")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "flush", fail)
        for epoch in (1, 2, 3):
            tracker.log_metrics({"loss": 1 / epoch}, epoch)
        until(lambda: len(tries) > 2)
    tracker.finish()
    assert [step for step in dict(steps(read(tmp_path / "logs" / "mine"), "loss"))] == [1, 2, 3]
    (first, second) = messages()
    assert "No space left on device; the training goes on, and its entries wait in" in first
    assert second.endswith("takes entries again")
