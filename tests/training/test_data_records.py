"""What a run says about its data, and when."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcv.config import Config
from kcv.data.dataset import Dataset, Images
from kcv.data.loading import load
from kcv.tracking import DataRecord, Tracker
from kcv.training import environment
from kcv.training.data_records import data_records, describe_briefly
from kcv.training.run_setup import open_run

Configure = Callable[..., Config]


@pytest.fixture(scope="module")
def dataset(images: Path) -> Dataset:
    return load(Config.load(data=str(images)).data)


def reordered(images: Images) -> Images:
    """The same images as another seed would split them: others, with the same labels."""
    names = list(images.names)
    first, last = (int(index) for index in np.flatnonzero(images.labels == images.labels[0])[[0, -1]])
    names[first], names[last] = f"{names[last]}x", names[first]
    return replace(images, samples=replace(images.samples, names=names))


def test_each_split_has_a_digest_of_what_it_holds(
    dataset: Dataset, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Images, "read", None)  # no image is read
    records = data_records(dataset, str(images))
    assert [(one.split, one.images) for one in records] == [
        (split, len(getattr(dataset, split))) for split in ("train", "val", "test")
    ]
    assert {(one.name, one.source, one.source_kind) for one in records} == {(images.name, str(images), "path")}
    assert all(sum(one.classes.values()) == one.images for one in records)
    assert list(records[0].classes) == list(dataset.class_names)
    digests = [one.digest for one in records]
    assert len(set(digests)) == 3 and all(len(digest) == 16 for digest in digests)
    assert [one.digest for one in data_records(dataset, str(images))] == digests
    changed = data_records(replace(dataset, train=reordered(dataset.train)), str(images))
    assert [one.digest == digest for one, digest in zip(changed, digests, strict=True)] == [False, True, True]
    assert len(data_records(replace(dataset, test=None), str(images))) == 2


@pytest.mark.parametrize(
    ("source", "name", "place", "kind"),
    [
        ("digits", "digits", "digits", "name"),
        ("https://host/a/photos.zip", "photos.zip", "https://host/a/photos.zip", "url"),
        ("hf:owner/photos", "hf:owner/photos", "hf:owner/photos", "url"),
        ("gone/photos/", "photos", "gone/photos/", "path"),
        ("here", "here", f"{os.sep}here", "path"),
    ],
)
def test_the_source_is_a_name_a_url_or_a_whole_path(
    dataset: Dataset, source: str, name: str, place: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    record = data_records(dataset, source)[0]
    expected = f"{tmp_path}{place}" if source == "here" else place
    assert (record.name, record.source, record.source_kind) == (name, expected, kind)


def test_a_killed_run_has_its_data_configuration_and_environment(
    dataset: Dataset, configure: Configure, images: Path
) -> None:
    class Kept(Tracker):
        calls: list[Any]

        def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
            self.calls = [("start", tags["note"])]

        def log_datasets(self, records: Sequence[DataRecord]) -> None:
            self.calls.append(("data", [one.split for one in records]))

        def log_artifacts(self, path: Path) -> None:
            assert path.stat().st_size > 0
            self.calls.append(("file", path.name))

    config = configure()
    described = environment.describe(
        device="cpu", precision="float32", seed=0, data_fingerprint=dataset.fingerprint, weights=None
    )
    with ExitStack() as held:
        open_run(config, dataset, described, held, None, None, tracker=(tracker := Kept()))
    assert tracker.calls == [
        ("start", describe_briefly(dataset, "custom_cnn")),
        ("data", ["train", "val", "test"]),
        ("file", "config.yaml"),
        ("file", "environment.json"),
    ]
    assert describe_briefly(dataset, "custom_cnn").startswith(f"custom_cnn on {images}: {len(dataset.train)} train, ")
