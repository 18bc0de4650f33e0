"""Epochs drawn by class: how often each image occurs, and that the order follows from seed and epoch alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kcv.data import loading
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Images, Samples
from kcv.data.order import ProcessShard
from kcv.data.row_images import RowImages
from kcv.data.sampling import quotas, sampled, shares
from kcv.errors import ConfigError

COUNTS = np.array([100, 25, 0, 4])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))
ALL = ProcessShard()


def drawn(epoch: int, sampling: str = "balanced", *, seed: int = 1, share: ProcessShard = ALL) -> np.ndarray:
    parts = sampled(LABELS, sampling, 8, seed, epoch, share)
    return np.concatenate([part.indices for part in parts])


def test_shares_are_equal_or_follow_the_square_root() -> None:
    np.testing.assert_allclose(shares(COUNTS, "none"), COUNTS / 129)
    np.testing.assert_allclose(shares(COUNTS, "balanced"), [1 / 3, 1 / 3, 0, 1 / 3])
    np.testing.assert_allclose(shares(COUNTS, "sqrt"), [10 / 17, 5 / 17, 0, 2 / 17])


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
def test_an_epoch_has_the_quota_of_each_class_and_as_many_images_as_the_split(sampling: str) -> None:
    expected = quotas(COUNTS, sampling)
    assert expected.sum() == 129 and np.all(np.abs(expected - shares(COUNTS, sampling) * 129) < 1)
    for epoch in range(3):
        found = np.bincount(LABELS[drawn(epoch, sampling)], minlength=4)
        np.testing.assert_array_equal(found, expected)
    sizes = [len(part.indices) for part in sampled(LABELS, sampling, 8, 1, 0, ALL)]
    assert max(sizes) - min(sizes) <= 1


def test_no_image_is_drawn_again_before_all_others_of_its_class_were() -> None:
    seen: Counter[int] = Counter()
    for epoch in range(7):
        seen.update(drawn(epoch).tolist())
        for label in (0, 1, 3):
            times = [seen[int(position)] for position in np.flatnonzero(label == LABELS)]
            assert max(times) - min(times) <= 1


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    np.testing.assert_array_equal(drawn(5), drawn(5))
    others = [drawn(4), drawn(5, seed=2), drawn(5, "sqrt")]
    assert not any(np.array_equal(drawn(5), other) for other in others)


def test_processes_share_the_batches_that_one_would_have() -> None:
    whole = sampled(LABELS, "balanced", 8, 1, 3, ALL)
    shards = [sampled(LABELS, "balanced", 8, 1, 3, ProcessShard(rank, 3)) for rank in range(3)]
    for step, part in enumerate(whole):
        together = np.concatenate([shard[step].indices for shard in shards])
        np.testing.assert_array_equal(part.indices, together)
        assert [shard[step].begin for shard in shards] == np.cumsum(
            [0, *(len(shard[step].indices) for shard in shards[:-1])]
        ).tolist()


def folder_of(tmp_path: Path) -> Images:
    """Files of two classes, 12 and 2 images, which stay on the disk."""
    rng = np.random.default_rng(3)
    paths, labels = [], []
    for label, count in enumerate((12, 2)):
        for number in range(count):
            paths.append(tmp_path / f"{label}-{number}.png")
            labels.append(label)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(paths[-1])
    return Images(Samples(paths, np.array(labels), [path.name for path in paths]), 16, "squash")


def batches(images: Images, **options: object) -> TrainingBatches:
    common = {"num_classes": 2, "batch_size": 4, "seed": 1, "device": "cpu", "workers": 0, "sampling": "balanced"}
    return TrainingBatches(images, **{**common, **options})  # type: ignore[arg-type]


def test_streamed_images_are_those_from_memory_and_each_step_repeats(tmp_path: Path) -> None:
    streamed = folder_of(tmp_path)
    pixels = np.stack([streamed.read(index) for index in range(len(streamed))])
    in_memory = Images(streamed.samples, 16, "squash", pixels)
    ours, theirs = batches(streamed), batches(in_memory)
    for epoch in (0, 2):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        pairs = list(zip(ours, theirs, strict=True))
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
        targets = torch.cat([batch[1] for batch, _ in pairs])
        assert targets.sum(dim=0).tolist() == [7, 7]
        assert torch.equal(theirs.batch(epoch, 2)[0], pairs[2][1][0])


def test_batches_without_sampling_still_hold_each_image_once(tmp_path: Path) -> None:
    plain = batches(folder_of(tmp_path), sampling="none")
    assert sorted(np.concatenate([part.indices for part in plain.order(0)]).tolist()) == list(range(14))
    # Features of all images are computed from such batches.
    once = batches(folder_of(tmp_path)).shared(ProcessShard())
    assert sorted(np.concatenate([part.indices for part in once.order(0)]).tolist()) == list(range(14))


def test_parquet_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kcv.data.parquet import source as parquet

    monkeypatch.setattr(parquet, "EAGER_BYTES", 0)
    files = folder_of(tmp_path).samples
    rows = [{"bytes": Path(str(image)).read_bytes(), "path": None} for image in files.images]
    pq.write_table(pa.table({"image": rows, "label": files.labels.tolist()}), tmp_path / "train.parquet")
    samples = loading.open_source(str(tmp_path / "train.parquet")).splits["train"]
    assert isinstance(samples.images, RowImages)
    with pytest.raises(ConfigError, match=r"data.sampling: .*read from beginning to end; use data.class_weights"):
        batches(Images(samples, 16, "squash"))
