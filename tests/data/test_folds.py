"""Folds: stratified, never through a group of copies, and with a validation part of their own."""

from __future__ import annotations

import numpy as np
import pytest

from kcv.data.dataset import Samples
from kcv.data.fold import Fold
from kcv.data.folds import assign, digest_of, divide, set_apart
from kcv.errors import DataError


def divided(
    labels: np.ndarray, groups: np.ndarray, fold: str, exact: np.ndarray | None = None, val: float | None = 0.1
):
    pool = Samples([], labels, [f"{i}.png" for i in range(len(labels))])
    names = tuple(f"class {c}" for c in range(labels.max() + 1))
    copies = (groups, np.arange(len(labels)) if exact is None else exact)
    return divide(pool, copies, Fold.parse(fold), val_fraction=val, seed=3, name="data", class_names=names)


@pytest.mark.parametrize("text", ["2/5", "0/2", "5/5", "3/10@0123456789abcdef"])
def test_a_fold_is_written_as_it_is_read(text: str) -> None:
    assert str(Fold.parse(text)) == text


@pytest.mark.parametrize("text", ["", "2", "6/5", "1/1", "0/0", "-1/5", "1/5@xyz", "1/5@0123456789abcdef0", "1/5\n"])
def test_anything_else_is_no_fold(text: str) -> None:
    with pytest.raises(ValueError, match="is no fold"):
        Fold.parse(text)


def test_each_fold_has_its_part_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [50, 23, 7])
    assigned = assign(labels, np.arange(80), 5, seed=0)
    for label, count in enumerate([50, 23, 7]):
        sizes = np.bincount(assigned[labels == label], minlength=5)
        assert sizes.min() >= count // 5
        assert sizes.max() <= -(-count // 5)
    assert np.ptp(np.bincount(assigned)) <= 1


def test_a_group_is_in_one_fold_and_the_folds_stay_of_equal_size() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    groups = rng.integers(0, 120, 300)
    assigned = assign(labels, groups, 5, seed=0)
    for group in np.unique(groups):
        assert len(set(assigned[groups == group])) == 1
    assert np.ptp(np.bincount(assigned)) <= 6
    for label in range(4):
        assert np.ptp(np.bincount(assigned[labels == label], minlength=5)) <= 5


def test_the_numbering_of_the_groups_does_not_matter_and_the_seed_does() -> None:
    labels, groups = np.arange(60) % 3, np.repeat(np.arange(30), 2)
    first = assign(labels, groups, 4, seed=1)
    assert (first == assign(labels, 1000 - groups, 4, seed=1)).all()
    assert (first != assign(labels, groups, 4, seed=2)).any()


def test_a_part_set_apart_has_its_fraction_of_each_class_and_no_group_of_the_rest() -> None:
    labels, groups = np.repeat([0, 1], [40, 20]), np.repeat(np.arange(30), 2)
    apart = set_apart(labels, groups, 0.1, seed=0)
    assert apart is not None
    assert np.bincount(labels[apart]).tolist() == [4, 2]
    assert not set(groups[apart]) & set(groups[~apart])


def test_of_groups_larger_than_the_part_the_smallest_is_set_apart() -> None:
    labels, groups = np.zeros(12, np.int64), np.repeat([0, 1, 2], [5, 3, 4])
    apart = set_apart(labels, groups, 0.1, seed=0)
    assert apart is not None
    assert set(groups[apart]) == {1}


def test_nothing_is_set_apart_where_a_class_is_one_group() -> None:
    assert set_apart(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), 0.5, seed=0) is None


def test_the_parts_of_a_fold_hold_every_image_once_and_no_copies() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 4
    groups = rng.integers(0, 90, 200)
    held_out = []
    for number in range(6):
        found = divided(labels, groups, f"{number}/5")
        parts = (found.train, found.val, found.held_out)
        assert sorted(np.concatenate(parts)) == list(range(200))
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not set(groups[parts[one]]) & set(groups[parts[other]])
        for part in parts[:2]:
            assert set(labels[part]) == {0, 1, 2, 3}
        held_out += found.held_out.tolist()
    assert sorted(held_out) == list(range(200))
    assert len(divided(labels, groups, "0/5").held_out) == 0


def test_where_near_duplicates_leave_a_class_too_few_groups_exact_copies_decide() -> None:
    labels = np.repeat([0, 1], 20)
    groups = np.where(labels == 0, 0, np.arange(40))  # class 0 is one scene
    found = divided(labels, groups, "1/4")
    assert found.exact
    assert set(labels[found.train]) == {0, 1}


def test_where_near_duplicates_are_fewer_groups_than_folds_exact_copies_decide() -> None:
    """Each class is in every training, and yet the ninth fold and the tenth would have no image."""
    labels, groups = np.repeat([0, 1], 20), np.repeat(np.arange(8), 5)
    found = divided(labels, groups, "9/10")
    assert found.exact
    assert np.bincount(found.assigned, minlength=10).min() > 0
    assert len(found.held_out) > 0
    assert not divided(labels, groups, "8/8").exact, "as many groups as folds are enough"


def test_fewer_different_images_than_folds_are_refused_for_all_folds() -> None:
    labels, groups = np.repeat([0, 1], 20), np.repeat(np.arange(8), 5)
    for fold, val in (("0/10", 0.1), ("1/10", 0.1), ("9/10", 0.1), ("1/10", None)):
        with pytest.raises(DataError, match=r"has 8 different images \(all others are copies\), fewer than 10 folds"):
            divided(labels, groups, fold, exact=groups, val=val)


@pytest.mark.parametrize(
    ("labels", "groups", "told"),
    [
        ([0] * 10 + [1] * 4, range(14), "class 'class 1' has 4 images, fewer than 5 folds; use --folds=4, or add"),
        ([0] * 10 + [1] * 2, range(12), "class 'class 1' has 2 images, fewer than 5 folds; add images"),
        ([0] * 10 + [1] * 6, [*range(10), *[10] * 6], "class 'class 1' has 1 different images, too few to train"),
    ],
)
def test_too_few_images_are_refused(labels: list[int], groups: list[int], told: str) -> None:
    same = np.array(list(groups))
    with pytest.raises(DataError, match=told):
        divided(np.array(labels), same, "1/5", exact=same)


def test_other_folds_than_a_run_was_begun_with_are_refused() -> None:
    labels = np.arange(40) % 2
    digest = digest_of(divided(labels, np.arange(40), "1/4").assigned)
    divided(labels, np.arange(40), f"1/4@{digest}")
    with pytest.raises(DataError, match="come out differently"):
        divided(labels, np.arange(40), f"1/5@{digest}")


def test_folds_that_validate_hold_nothing_out_and_are_the_folds_that_test() -> None:
    labels, groups = np.arange(60) % 3, np.repeat(np.arange(30), 2)
    seen = []
    for number in range(1, 5):
        found, other = (divided(labels, groups, f"{number}/4", val=val) for val in (None, 0.1))
        assert len(found.held_out) == 0
        assert sorted([*found.train, *found.val]) == list(range(60))
        assert found.val.tolist() == other.held_out.tolist(), "the same fold, for another purpose"
        assert not set(groups[found.val]) & set(groups[found.train])
        seen += found.val.tolist()
    assert sorted(seen) == list(range(60)), "each image validates once"
