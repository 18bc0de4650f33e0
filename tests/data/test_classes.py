"""Labels follow the names of their classes, never their positions."""

from __future__ import annotations

import numpy as np
import pytest

from kcv.data.classes import align, relabel
from kcv.data.dataset import Samples
from kcv.errors import DataError


def part(names: list[str], labels: list[int]) -> tuple[list[str], Samples]:
    return names, Samples([b""] * len(labels), np.array(labels), [str(i) for i in range(len(labels))])


def test_labels_are_matched_by_name() -> None:
    assert relabel(np.array([0, 1, 1]), ["a", "b"], ["b", "x", "a"], "here", "the model").tolist() == [2, 0, 0]


def test_a_class_without_images_need_not_be_known() -> None:
    assert relabel(np.array([1]), ["unused", "b"], ["b"], "here", "the model").tolist() == [0]


def test_the_order_of_train_stands() -> None:
    source = align("pets", {"test": part(["dog", "cat"], [0, 1]), "train": part(["cat", "dog"], [0, 1])})
    assert source.class_names == ("cat", "dog")
    assert source.splits["test"].labels.tolist() == [1, 0]


def test_unknown_and_double_classes_are_named() -> None:
    with pytest.raises(
        DataError, match=r"pets: the val split: has a class .*train split.*'owl'; allowed: 'cat', 'dog'"
    ):
        align("pets", {"train": part(["cat", "dog"], [0, 1]), "val": part(["cat", "owl"], [0, 1])})
    with pytest.raises(DataError, match="'cat' stand twice"):
        align("pets", {"train": part(["cat", "cat"], [0, 1])})


def test_forms_of_unicode_make_no_difference() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert relabel(np.array([0]), [decomposed], ["tea", composed], "here", "the model").tolist() == [1]
    assert relabel(np.array([0]), [composed], ["tea", decomposed], "here", "the model").tolist() == [1]


@pytest.mark.parametrize("name", ["Cat", "cat ", "c\u200bat"])
def test_a_name_that_looks_like_a_known_one_is_pointed_out(name: str) -> None:
    with pytest.raises(DataError, match="and 'cat' look alike, but are two names"):
        relabel(np.array([0]), [name], ["cat", "dog"], "here", "the model")
