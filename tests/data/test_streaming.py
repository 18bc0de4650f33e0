import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kcv.config import AugmentConfig
from kcv.data import streaming
from kcv.data.batches import Batch, InferenceBatches, TrainingBatches
from kcv.data.dataset import Images, Samples
from kcv.data.streaming import StreamedPixels
from kcv.errors import DataError

SIZE = 8
PIXELS = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3
RESIDENT = Images(Samples(list(PIXELS), LABELS, [f"{i}.png" for i in range(20)]), SIZE, "squash", PIXELS)


def training(images: Images, *, batch_size: int = 8, workers: int = 0) -> TrainingBatches:
    augment = AugmentConfig(crop_padding=2, flip="alternating", color_jitter=0.3, cutout=3, cutmix=1.0)
    return TrainingBatches(
        images, num_classes=3, batch_size=batch_size, augment=augment, seed=1, device="cpu", workers=workers
    )


def same(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    pairs = list(zip(left, right, strict=True))
    assert pairs
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The images of RESIDENT as PNG files."""
    root = tmp_path_factory.mktemp("images")
    files = [root / name for name in RESIDENT.names]
    for file, pixels in zip(files, PIXELS, strict=True):
        Image.fromarray(pixels).save(file)
    return Images(Samples(files, LABELS, RESIDENT.names), SIZE, "squash")


@pytest.mark.parametrize("shared_memory", [True, False])
def test_streamed_batches_equal_those_from_memory(
    streamed: Images, shared_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_fits_shared_memory", lambda need: shared_memory)
    before = torch.get_rng_state()
    ours, theirs = training(streamed, workers=2), training(RESIDENT)
    for epoch in (0, 3):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        loader = ours.loader()
        next(iter(loader))  # a pass that is given up, as Keras does when it builds a model
        assert same(loader, theirs.loader())
    assert torch.equal(torch.get_rng_state(), before)
    ours.close()


@pytest.mark.full
def test_workers_that_are_spawned_give_the_same(streamed: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has neither fork nor a fork server: each worker is a new Python, which gets everything pickled."""
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    asked: list[str] = []
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda name: asked.append(name) or get_context(name))
    ours, theirs = training(streamed, workers=2), training(RESIDENT)
    assert same(ours.loader(), theirs.loader())
    assert set(asked) == {"spawn"}
    ours.close()


def test_workers_are_kept_from_epoch_to_epoch(streamed: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    open_workers = StreamedPixels._open
    monkeypatch.setattr(StreamedPixels, "_open", lambda *args: opened.append(args) or open_workers(*args))
    batches = InferenceBatches(streamed, batch_size=8, device="cpu", num_classes=3, workers=1)
    for _ in range(2):
        assert same(batches.loader(), InferenceBatches(RESIDENT, batch_size=8, device="cpu", num_classes=3))
    assert len(opened) == 1
    batches.close()


def test_without_workers_streaming_gives_the_same(streamed: Images) -> None:
    assert same(training(streamed, workers=0), training(RESIDENT))
    assert same([training(streamed).batch(2, 1)], [training(RESIDENT).batch(2, 1)])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(streamed: Images, tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    samples = Samples([*streamed.samples.images[:3], broken], np.zeros(4, np.int64), ["a", "b", "c", "cats/broken.png"])
    batches = InferenceBatches(
        Images(samples, SIZE, "squash"), batch_size=2, device="cpu", num_classes=1, workers=workers
    )
    iterator = iter(batches.loader())
    next(iterator)
    with pytest.raises(DataError) as caught:
        next(iterator)
    message = str(caught.value)
    assert "broken.png" in message
    assert "\n" not in message
    assert "worker" not in message


@pytest.mark.parametrize(
    "error", [RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"), ConnectionResetError("reset by peer")]
)
def test_a_dead_worker_is_explained(streamed: Images, error: Exception) -> None:
    def dying() -> Iterator[torch.Tensor]:
        raise error
        yield

    with pytest.raises(DataError, match=r"data\.workers=0 reads in the main process"):
        StreamedPixels(streamed, torch.device("cpu"), 1)._next(dying())


def test_a_bug_in_a_worker_is_not_taken_for_its_death(streamed: Images) -> None:
    def failing() -> Iterator[torch.Tensor]:
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.")
        yield

    with pytest.raises(RuntimeError, match="Caught"):
        StreamedPixels(streamed, torch.device("cpu"), 1)._next(failing())


class Waiting:
    """Batches that come when torch has been asked often enough."""

    def __init__(self, timeouts: int) -> None:
        self.left = timeouts

    def __next__(self) -> str:
        if self.left == 0:
            return "batch"
        self.left -= 1
        raise RuntimeError("DataLoader timed out after 5.0 seconds")


def test_a_long_wait_is_told_once_and_an_endless_one_ends(streamed: Images, caplog: pytest.LogCaptureFixture) -> None:
    pixels: Any = StreamedPixels(streamed, torch.device("cpu"), 1)
    assert pixels._next(Waiting(5)) == "batch"
    assert caplog.records == []
    assert pixels._next(Waiting(100)) == "batch"
    assert [record.getMessage() for record in caplog.records] == [
        "no image has come for 60 s: a slow or lost disk, or a process that was stopped; the training waits"
    ]
    with pytest.raises(DataError, match="have not answered for 15 minutes"):
        pixels._next(Waiting(10_000))


def test_no_room_for_workers_is_one_line(streamed: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.context.BaseContext.Queue", full)
    with pytest.raises(DataError, match=r"\(No space left on device\): use data.workers=0.*--shm-size"):
        list(training(streamed, workers=1))


@pytest.mark.skipif(os.name == "nt", reason="Windows stops no processes like this")
def test_stopped_workers_end_within_seconds(streamed: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.data.workers._ORDERLY_SECONDS", 0.1)
    batches: Any = training(streamed, workers=2)
    next(iter(batches))
    workers = batches._pixels._loader._iterator._workers
    os.kill(workers[0].pid, signal.SIGSTOP)
    batches.close()
    for worker in workers:
        worker.join(30)
    assert not any(worker.is_alive() for worker in workers)


def test_a_second_pass_over_the_same_workers_stops_the_first(streamed: Images) -> None:
    batches = training(streamed, batch_size=4, workers=1)
    first, second = iter(batches), iter(batches)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="a new pass"):
        next(first)
    batches.close()
