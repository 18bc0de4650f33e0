"""Frozen features: computed once, kept for later runs, and no different from features that are not kept."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import kcv
from kcv.common import leftovers
from kcv.config import Config
from kcv.data import loading
from kcv.data.dataset import Dataset
from kcv.distributed.group import SINGLE_PROCESS
from kcv.models import registry
from kcv.models.backbone import Backbone
from kcv.training import feature_files, features
from kcv.training.features import FeatureStore
from kcv.training.loop import Batches, open_batches

Configure = Callable[..., Config]
AUGMENTED = {"augment.flip": "random", "augment.crop_padding": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    return Backbone.of(registry.build(Config.load(model="custom_cnn", **{"model.width": 0.125}).model, 16, 3, pixels))


class Case:
    """A store and the batches that it is asked for."""

    def __init__(self, config: Config, backbone: Backbone, identity: str = "one") -> None:
        self.dataset: Dataset = loading.load(config.data)
        self._opened = open_batches(config, self.dataset, "cpu")
        self.batches: Batches = self._opened.__enter__()
        self.store = FeatureStore(backbone.features(), config, (identity,), "cpu", config.train.epochs)

    def epoch(self, number: int) -> list[Any]:
        fed = self.store.training(self.batches.train)
        fed.set_epoch(number)
        return list(fed)

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


@pytest.fixture
def case(configure: Configure, backbone: Backbone) -> Iterator[Callable[..., Case]]:
    cases = []

    def make(identity: str = "one", **overrides: object) -> Case:
        frozen = {"model.mode": "feature_extraction", "model.weights": "none"}
        cases.append(Case(configure(**{**frozen, **overrides}), backbone, identity))
        return cases[-1]

    yield make
    for made in cases:
        made.close()


def equal(first: list[Any], second: list[Any]) -> bool:
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


def test_kept_features_are_those_of_the_images(case: Callable[..., Case], backbone: Backbone) -> None:
    mine = case()
    mine.batches.train.set_epoch(3)
    with torch.no_grad():
        for (got, targets), (images, wanted) in zip(mine.epoch(3), mine.batches.train, strict=True):
            torch.testing.assert_close(got, backbone.features()(images, training=False), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(targets, wanted, rtol=0, atol=0)


def test_epochs_come_in_other_orders(case: Callable[..., Case]) -> None:
    mine = case()
    assert not equal(mine.epoch(0), mine.epoch(1))
    assert equal(mine.epoch(1), mine.epoch(1))


@pytest.mark.parametrize("memory", [2048, 0], ids=["in memory", "streamed"])
def test_kept_views_are_what_an_augmented_epoch_would_be(case: Callable[..., Case], memory: int) -> None:
    """View v is epoch v: so long as there are as many views as epochs, keeping them changes nothing at all."""
    options = {**AUGMENTED, "data.memory_budget_mb": memory, "data.workers": 1}
    kept, computed = case(**options, **{"model.feature_views": 2}), case(**options)
    for epoch in (0, 1):
        for a, b in zip(kept.epoch(epoch), computed.epoch(epoch), strict=True):
            torch.testing.assert_close(a[0], b[0], rtol=0, atol=0)
    third, first = kept.epoch(2), kept.epoch(0)
    assert not equal(third, first)  # another order
    assert np.array_equal(*(np.sort(np.concatenate([x.numpy() for x, _ in epoch]), axis=0) for epoch in (third, first)))


def test_features_are_kept_without_mixing_and_one_line_says_so(
    case: Callable[..., Case], caplog: pytest.LogCaptureFixture
) -> None:
    stages = {"model.mode": "fine_tuning", "model.unfreeze_after": 2, "epochs": 3, "model.feature_views": 1}
    plain = case(**AUGMENTED, **stages).epoch(0)
    with caplog.at_level(logging.INFO, "kcv"):
        mixed = case(**AUGMENTED, **stages, **{"augment.mixup": 0.5, "augment.cutmix": 1.0}).epoch(0)
    assert equal(mixed, plain)
    lines = [record.getMessage() for record in caplog.records if "mixup" in record.getMessage()]
    assert lines == ["features   kept without mixup and cutmix, which begin when the backbone is unfrozen"]


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records)


def test_a_later_run_takes_what_is_kept(
    case: Callable[..., Case], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = case().epoch(0)
    (path,) = cache.glob("*.npy")
    caplog.clear()
    with caplog.at_level(logging.INFO, "kcv"):
        assert equal(case().epoch(0), first)
        case(batch_size=7, seed=3).epoch(0)  # neither decides an image's features
    assert "computed" not in messages(caplog) and "kept from before" in messages(caplog)
    assert list(cache.glob("*.npy")) == [path]


@pytest.mark.parametrize(
    "change", [{"identity": "two"}, {**AUGMENTED, "model.feature_views": 1}], ids=["images or network", "views"]
)
def test_other_images_networks_or_views_are_computed(
    change: dict[str, Any], case: Callable[..., Case], cache: Path
) -> None:
    case().epoch(0)
    case(**change).epoch(0)
    assert len(list(cache.glob("*.npy"))) == 2


def test_other_weights_are_computed(case: Callable[..., Case], cache: Path, backbone: Backbone) -> None:
    case().epoch(0)
    kernel = backbone.model.get_layer("block5_conv2")
    before = kernel.get_weights()
    try:
        kernel.set_weights([before[0] * 1.5])
        case().epoch(0)
    finally:
        kernel.set_weights(before)
    assert len(list(cache.glob("*.npy"))) == 2


@pytest.mark.parametrize("left", [500, 0])
def test_a_damaged_file_is_made_again(case: Callable[..., Case], cache: Path, left: int) -> None:
    first = case().epoch(0)
    (path,) = cache.glob("*.npy")
    path.write_bytes(path.read_bytes()[:left])
    assert equal(case().epoch(0), first)


def test_changed_files_members_and_constants_are_computed(
    case: Callable[..., Case], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case().epoch(0)
    mine = case()
    train = mine.batches.train.images
    first = train.samples.images[0]
    assert isinstance(first, Path)
    before = first.stat()
    try:
        os.utime(first, (before.st_atime, before.st_mtime + 10))
        mine.epoch(0)
        assert len(list(cache.glob("*.npy"))) == 2
    finally:
        os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    train.samples.labels[[0, -1]] = train.samples.labels[[-1, 0]]
    mine.epoch(0)
    assert len(list(cache.glob("*.npy"))) == 3
    monkeypatch.setattr(features, "_FORMAT", 99)
    case().epoch(0)
    assert len(list(cache.glob("*.npy"))) == 4


def test_what_normalises_the_pixels_is_part_of_the_network() -> None:
    digests = []
    for mean in (0.4, 0.5):
        inputs = keras.Input((16, 16, 3))
        normalised = keras.layers.Normalization(mean=[mean] * 3, variance=[1.0] * 3)(inputs)
        digests.append(features._digest(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(normalised))))
    assert digests[0] != digests[1]


def test_no_more_views_are_computed_than_epochs_look_at(case: Callable[..., Case], cache: Path) -> None:
    case(**AUGMENTED, epochs=2, **{"model.feature_views": 50}).epoch(0)
    assert len(list(cache.glob("*.npy"))) == 2


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_full_disk_costs_nothing_but_the_next_time(
    case: Callable[..., Case],
    cache: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = case().epoch(0)
    shutil.rmtree(cache)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    mine = case()
    assert equal(mine.epoch(0), wanted)  # in memory: the other disk is full as well
    list(mine.store.validation(mine.batches.val))
    assert list(cache.iterdir()) == [] == list(temporary.iterdir())
    assert messages(caplog).count("held for this run alone") == 1 and "No space left on device" in caplog.text


@pytest.mark.parametrize("place", ["/proc/no-such-place", "file"])
def test_a_cache_that_cannot_be_written_to_costs_nothing_but_the_next_time(
    place: str,
    case: Callable[..., Case],
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = case().epoch(0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / place))
    mine = case()
    assert equal(mine.epoch(0), wanted)
    assert equal(mine.epoch(1), case().epoch(1))
    assert "held for this run alone (KCV_CACHE_DIR" in messages(caplog)
    assert list(temporary.iterdir()) == []


def test_a_disk_that_fills_up_in_the_end_is_no_loss(
    case: Callable[..., Case], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = case().epoch(0)
    shutil.rmtree(cache)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_files, "_close", full)
    assert equal(case().epoch(0), wanted)
    assert list(cache.iterdir()) == [] and "No space left on device" in caplog.text


def test_on_windows_features_stay_in_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "_CAN_MOVE_MAPPED", False)
    reasons: list[str] = []
    with feature_files.filled("0" * 64, (2, 3), SINGLE_PROCESS, reasons.append) as values:
        assert not isinstance(values, np.memmap)
        values[1] = 5.0
    np.testing.assert_array_equal(values, [[0, 0, 0], [5, 5, 5]])
    assert reasons == ["Windows can neither rename nor remove a mapped file"]
    assert not cache.exists() or list(cache.iterdir()) == []


def test_no_damage_of_a_kept_file_is_overlooked(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """1,000 seeded changes of a file: of bits and bytes; of pieces cut out, put in, moved and emptied."""
    key, shape = hashlib.sha256(b"one").hexdigest(), (40, 7)
    with feature_files.filled(key, shape, SINGLE_PROCESS, pytest.fail) as values:
        values[:] = np.random.default_rng(0).normal(size=shape)
    path = feature_files.path_of(key)
    sound = path.read_bytes()
    assert np.array_equal(np.load(path), values)
    del values  # a mapping of a file that will be cut
    rng = np.random.default_rng(1)
    for number in range(1000):
        changed = bytearray(sound)
        place, length = int(rng.integers(len(sound))), int(rng.integers(1, 64))
        kind = number % 6
        if kind == 0:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[place : place + length] = rng.bytes(len(changed[place : place + length]))
        elif kind == 2:
            del changed[place : place + length]
        elif kind == 3:
            changed[place:place] = rng.bytes(length)
        elif kind == 4:
            changed[place : place + length] = bytes(len(changed[place : place + length]))
        else:
            changed = changed[place:] + changed[:place]
        path.write_bytes(changed)
        found = feature_files.open_kept(key, shape)
        assert (found is None) == (bytes(changed) != sound), number
    assert messages(caplog).count("is damaged (its checksum is wrong); computed again") > 900
    path.write_bytes(sound)
    assert feature_files.open_kept(key, (7, 40)) is None
    assert feature_files.open_kept(key, shape) is not None
    other = hashlib.sha256(b"other").hexdigest()
    path.rename(feature_files.path_of(other))
    assert feature_files.open_kept(other, shape) is None


def test_damaged_features_are_computed_again_and_said(
    case: Callable[..., Case], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = case().epoch(0)
    (path,) = cache.glob("*.npy")
    sound = path.read_bytes()
    path.write_bytes(sound[:400] + bytes([sound[400] ^ 0x40]) + sound[401:])
    caplog.clear()
    assert equal(case().epoch(0), first)
    assert messages(caplog).count("is damaged (its checksum is wrong); computed again") == 1
    assert path.read_bytes() == sound


def test_what_a_killed_run_was_writing_is_removed(case: Callable[..., Case], cache: Path) -> None:
    cache.mkdir(parents=True)
    gone = int(subprocess.run(["sh", "-c", "echo $$"], capture_output=True, check=True).stdout)
    name = leftovers.prefix(Path("features.npy"))
    left = cache / f"{name.replace(str(os.getpid()), str(gone))}abcd1234.npy"
    written, foreign = cache / f"{name.replace(str(os.getpid()), str(os.getppid()))}abcd1234.npy", cache / ".mine.npy"
    for path in (left, written, foreign):
        path.touch()
    case().epoch(0)
    assert [path.exists() for path in (left, written, foreign)] == [False, True, True]


def test_an_interrupted_computation_leaves_nothing(case: Callable[..., Case], cache: Path) -> None:
    mine = case()

    def interrupted(images: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    mine.store._forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        mine.epoch(0)
    assert list(cache.iterdir()) == []


def test_ctrl_c_ends_the_computation_of_features_at_once(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = []

    def signalled(self: FeatureStore, batches: object) -> None:
        signal.raise_signal(signal.SIGINT)
        went_on.append(True)

    monkeypatch.setattr(FeatureStore, "training", signalled)
    with pytest.raises(KeyboardInterrupt):
        kcv.train(configure(**{"model.mode": "feature_extraction", "model.weights": "none"}))
    assert not went_on


def test_what_was_not_used_for_longest_goes_first(
    case: Callable[..., Case], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case("one").epoch(0)
    (first,) = cache.glob("*.npy")
    case("two").epoch(0)
    (second,) = set(cache.glob("*.npy")) - {first}
    for age, path in enumerate((second, first)):
        os.utime(path, (1000.0 - age, 1000.0 - age))
    monkeypatch.setattr(feature_files, "MOST_BYTES", 2 * first.stat().st_size)
    being_written = cache / ".other.npy"  # by another run
    being_written.touch()
    case("three").epoch(0)
    assert not first.exists() and second.exists() and being_written.exists()
    assert len([path for path in cache.glob("*.npy") if path != being_written]) == 2


def test_a_run_never_removes_what_it_uses_itself(
    case: Callable[..., Case], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_files, "MOST_BYTES", 1)
    case(**AUGMENTED, epochs=3, **{"model.feature_views": 3}).epoch(0)
    assert len(list(cache.glob("*.npy"))) == 3


def test_a_process_that_is_late_does_not_look_for_the_file_that_the_first_has_named(tmp_path: Path) -> None:
    place, path = tmp_path / "temporary.npy", tmp_path / "features.npy"
    np.save(place, np.zeros((2, 3), np.float32))

    class Second:
        """The second of two processes, which leaves the barrier when the first has gone on already."""

        is_main_process, is_distributed, rank, world_size = False, True, 1, 2

        def broadcast(self, value: object = None) -> tuple[Path, bool]:
            return place, True

        def barrier(self) -> None:
            place.rename(path)

    with feature_files.filled("0" * 64, (2, 3), Second(), lambda reason: None) as values:  # type: ignore[arg-type]
        values[1] = 5.0
    np.testing.assert_array_equal(np.load(path), [[0, 0, 0], [5, 5, 5]])
    assert not values.flags.writeable
