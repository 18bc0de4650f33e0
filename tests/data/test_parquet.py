"""Parquet files in the Hugging Face layout, and files that are nearly that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kcv.data import parquet
from kcv.errors import DataError


def write(
    path: Path,
    labels: Any,
    *,
    pictures: Any = None,
    classes: list[str] | None = None,
    image: str = "image",
    label: str = "label",
) -> Path:
    if pictures is None:
        pictures = pa.array([{"bytes": f"{path.stem}{i}".encode(), "path": None} for i in range(len(labels))])
    table = pa.table({image: pictures, label: labels})
    if classes is not None:
        features = {image: {"_type": "Image"}, label: {"names": classes, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_the_hugging_face_layout(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", [1, 0], classes=["cat", "dog"], image="img")
    write(tmp_path / "data/train-00001-of-00002.parquet", [1], classes=["cat", "dog"], image="img")
    write(tmp_path / "data/validation-00000-of-00001.parquet", [0], classes=["cat", "dog"])
    write(tmp_path / "data/test-00000-of-00001.parquet", [0, 1], classes=["dog", "cat"])
    source = parquet.open_source(tmp_path, "pets")
    train = source.splits["train"]
    assert source.class_names == ("cat", "dog")
    assert train.labels.tolist() == [1, 0, 1]
    assert list(train.names) == ["train/0", "train/1", "train/2"]
    assert train.pictures[2] == b"train-00001-of-000020"
    assert source.splits["test"].labels.tolist() == [1, 0], "matched by name, not by position"
    assert set(source.splits) == {"train", "val", "test"}
    assert not source.flat


def test_one_file_is_a_source_without_splits(tmp_path: Path) -> None:
    source = parquet.open_source(write(tmp_path / "pets.parquet", ["owl", "cat", "owl"]))
    assert source.flat
    assert source.class_names == ("cat", "owl")
    assert source.splits["train"].labels.tolist() == [1, 0, 1]


def test_folders_can_name_the_splits(tmp_path: Path) -> None:
    write(tmp_path / "train" / "0.parquet", ["a", "b"])
    write(tmp_path / "test" / "0.parquet", ["b"])
    source = parquet.open_source(tmp_path)
    assert source.splits["test"].labels.tolist() == [1]


def test_a_word_that_begins_like_a_split_is_none(tmp_path: Path) -> None:
    write(tmp_path / "trainers.parquet", ["nike", "puma"])
    write(tmp_path / "values.parquet", ["nike"])
    source = parquet.open_source(tmp_path)
    assert source.flat
    assert len(source.splits["train"]) == 3


@pytest.mark.parametrize(
    ("labels", "names", "positions"),
    [
        (pa.array([10, 9, 2], pa.int8()), ("2", "9", "10"), [2, 1, 0]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b"), [1, 0, 1]),
        (pa.array(["b", "a", "b"], pa.large_string()), ("a", "b"), [1, 0, 1]),
    ],
    ids=["numbers without names", "categories", "large text"],
)
def test_other_labels(tmp_path: Path, labels: Any, names: tuple[str, ...], positions: list[int]) -> None:
    source = parquet.open_source(write(tmp_path / "x.parquet", labels))
    assert source.class_names == names
    assert source.splits["train"].labels.tolist() == positions


def test_plain_binary_pictures(tmp_path: Path) -> None:
    source = parquet.open_source(write(tmp_path / "x.parquet", ["a", "b"], pictures=pa.array([b"1", b"2"])))
    assert list(source.splits["train"].pictures) == [b"1", b"2"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no picture column": ({"labels": [0], "image": "photo"}, "needs a column 'image' or 'img'"),
    "no label column": ({"labels": [0], "label": "klass"}, "needs a column 'label'; its columns: image, klass"),
    "pictures as text": ({"labels": [0], "pictures": pa.array(["a.jpg"])}, "column 'image' must be binary"),
    "labels as floats": ({"labels": [0.5]}, "column 'label' must be integers or text, not double"),
    "label too large": ({"labels": [0, 2], "classes": ["a", "b"]}, "row 1 (train/1): label 2 is not one of 0 to 1"),
    "label negative": ({"labels": [-1], "classes": ["a", "b"]}, "row 0 (train/0): label -1"),
    "null label": ({"labels": [0, None]}, "row 1 (train/1): the label is null"),
    "null picture": ({"labels": [0], "pictures": pa.array([None], pa.binary())}, "row 0 (train/0): the picture is"),
    "path only": (
        {"labels": [0], "pictures": pa.array([{"bytes": None, "path": "a.jpg"}],
                                            pa.struct({"bytes": pa.binary(), "path": pa.string()}))},
        "the picture is null",
    ),
    "no rows": ({"labels": pa.array([], pa.int64()), "pictures": pa.array([], pa.binary())}, "has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_table_is_explained(case: str, tmp_path: Path) -> None:
    arguments, words = BAD[case]
    path = write(tmp_path / "x.parquet", **arguments)
    with pytest.raises(DataError) as caught:
        parquet.open_source(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet"):
        parquet.open_source(path)


def test_a_file_without_a_split_beside_splits_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0])
    write(tmp_path / "more.parquet", [0])
    with pytest.raises(DataError, match=r"more\.parquet belongs to no split"):
        parquet.open_source(tmp_path)


def test_an_unknown_class_in_a_split_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["a", "b"])
    write(tmp_path / "test.parquet", ["a", "c"])
    with pytest.raises(DataError, match=r"test split: has a class .* 'c'"):
        parquet.open_source(tmp_path)


def test_what_counts_as_parquet(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    assert not parquet.is_parquet(tmp_path)
    assert parquet.is_parquet(tmp_path / "x.PARQUET")
    write(tmp_path / "data" / "train-0.parquet", [0])
    assert parquet.is_parquet(tmp_path)
