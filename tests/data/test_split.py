"""What a source brings is used, what it lacks is carved, and what cannot be split is named."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from kcv.data.dataset import Samples, Source
from kcv.data.split import three_way
from kcv.errors import DataError

NAMES = ("cat", "dog", "owl")


def samples(counts: tuple[int, ...], prefix: str = "p") -> Samples:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Samples([b""] * len(labels), labels, [f"{prefix}{i}" for i in range(len(labels))])


def source(**splits: tuple[int, ...]) -> Source:
    return Source("pets", NAMES, {split: samples(counts, split) for split, counts in splits.items()})


def test_a_flat_source_is_cut_in_three_by_class() -> None:
    train, val, test = three_way(source(train=(100, 200, 300)), val_fraction=0.1, test_fraction=0.25, seed=1)
    assert test is not None
    assert np.bincount(test.labels).tolist() == [25, 50, 75]
    assert len(val) == 45, "a tenth of what the test split leaves"
    assert np.abs(np.bincount(val.labels) - [7.5, 15, 22.5]).max() <= 0.5
    names = [*train.names, *val.names, *test.names]
    assert len(set(names)) == len(names) == 600
    assert (np.diff([int(name.removeprefix("train")) for name in val.names]) > 0).all(), "source order, for the disk"


def test_the_seed_decides() -> None:
    def names(seed: int) -> list[str]:
        return list(three_way(source(train=(50, 50, 50)), val_fraction=0.2, test_fraction=0, seed=seed)[1].names)

    assert names(42) == names(42)
    assert names(42) != names(43)


def test_splits_of_the_source_are_used_as_they_are() -> None:
    given = source(train=(20, 20, 20), val=(3, 3, 3), test=(1, 2, 3))
    train, val, test = three_way(given, val_fraction=0.5, test_fraction=0.5, seed=0)
    assert (train, val, test) == (given.splits["train"], given.splits["val"], given.splits["test"])


def test_validation_is_carved_beside_a_given_test() -> None:
    given = source(train=(20, 20, 20), test=(1, 2, 3))
    train, val, test = three_way(given, val_fraction=0.1, test_fraction=0.5, seed=0)
    assert test is given.splits["test"]
    assert (len(train), np.bincount(val.labels).tolist()) == (54, [2, 2, 2])


def test_splits_of_earlier_versions_stay_as_they_were() -> None:
    """A run is measured again on the images that it was measured on: the digests are those of version 0.1."""
    digests = []
    for splits, fractions, seed in (
        ({"train": (40, 25, 60)}, (0.1, 0.1), 42),
        ({"train": (9, 12, 200)}, (0.3, 0.25), 7),
        ({"train": (30, 31, 32), "test": (4, 4, 4)}, (0.1, 0.1), 42),
    ):
        parts = three_way(source(**splits), val_fraction=fractions[0], test_fraction=fractions[1], seed=seed)
        text = "|".join(" ".join(part.names) for part in parts if part is not None)
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    assert digests == ["c85b2a286950fc5d", "3fddd327a8c0cf04", "f6fcd5ad3088db85"]


@pytest.mark.parametrize(
    "counts", [(200, 100, 4), (3, 3, 3), (5, 5, 5), (500, 3, 500), (6,) * 200], ids=lambda counts: str(counts[:3])
)
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_each_class_is_in_each_split(counts: tuple[int, ...], fraction: float) -> None:
    given = Source("pets", tuple(map(str, range(len(counts)))), {"train": samples(counts)})
    parts = three_way(given, val_fraction=fraction, test_fraction=fraction, seed=42)
    again = three_way(given, val_fraction=fraction, test_fraction=fraction, seed=42)
    names: list[str] = []
    for part, same in zip(parts, again, strict=True):
        assert part is not None and same is not None
        assert np.bincount(part.labels, minlength=len(counts)).min() >= 1
        assert list(part.names) == list(same.names)
        assert (np.diff([int(name.removeprefix("p")) for name in part.names]) > 0).all(), "source order, for the disk"
        names += part.names
    assert sorted(names) == sorted(given.splits["train"].names)


def test_two_images_of_a_class_are_enough_for_train_and_val() -> None:
    train, val, _ = three_way(source(train=(2, 2, 9)), val_fraction=0.1, test_fraction=0, seed=0)
    assert np.bincount(train.labels).min() == np.bincount(val.labels).min() == 1


def test_no_test_where_none_is_wanted() -> None:
    assert three_way(source(train=(20, 20, 20)), val_fraction=0.1, test_fraction=0, seed=0)[2] is None


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((50, 1, 50), "class 'dog' has 1 image to train on"),
        ((500, 2, 500), "class 'dog' has 2 images to train on, too few to be in train, test and val"),
        ((2, 2, 2), "test_fraction=0"),
        ((50, 0, 50), "the train split has no images of the class 'dog'"),
        ((0, 0, 50), "the classes 'cat', 'dog'"),
    ],
)
def test_a_class_too_small_to_split_is_named(counts: tuple[int, ...], words: str) -> None:
    with pytest.raises(DataError) as caught:
        three_way(source(train=counts), val_fraction=0.1, test_fraction=0.1, seed=0)
    assert words in str(caught.value)
    assert str(caught.value).startswith("pets: ")


def test_a_class_missing_from_a_given_split_is_named() -> None:
    with pytest.raises(DataError, match="the test split has no images of the class 'owl'"):
        three_way(source(train=(20, 20, 20), test=(5, 5, 0)), val_fraction=0.1, test_fraction=0.1, seed=0)


def test_one_class_or_no_train_split_cannot_be_trained_on() -> None:
    single = Source("pets", ("cat",), {"train": samples((9,))})
    with pytest.raises(DataError, match="only the class 'cat'; at least two"):
        three_way(single, val_fraction=0.1, test_fraction=0.1, seed=0)
    with pytest.raises(DataError, match="no train split, only test"):
        three_way(source(test=(5, 5, 5)), val_fraction=0.1, test_fraction=0.1, seed=0)
