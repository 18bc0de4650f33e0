"""Parquet files in the Hugging Face layout, and files that are nearly that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kcv.data.parquet import source as parquet
from kcv.data.sources import SourceOptions
from kcv.errors import DataError


def write(
    path: Path,
    labels: Any,
    *,
    images: Any = None,
    classes: list[str] | None = None,
    image: str = "image",
    label: str = "label",
) -> Path:
    if images is None:
        images = pa.array([{"bytes": f"{path.stem}{i}".encode(), "path": None} for i in range(len(labels))])
    table = pa.table({image: images, label: labels})
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
    assert train.images[2] == b"train-00001-of-000020"
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


def test_plain_binary_images(tmp_path: Path) -> None:
    source = parquet.open_source(write(tmp_path / "x.parquet", ["a", "b"], images=pa.array([b"1", b"2"])))
    assert list(source.splits["train"].images) == [b"1", b"2"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no image column": ({"labels": [0], "images": pa.array([0.5])}, "column 'image' must be binary"),
    "no label column": ({"labels": [0.5], "label": "klass"}, "needs a column 'label'; its columns: image, klass"),
    "images as text": ({"labels": [0], "images": pa.array(["a.jpg"])}, "column 'image' must be binary"),
    "labels as floats": ({"labels": [0.5]}, "column 'label' must be integers or text, not double"),
    "label too large": ({"labels": [0, 2], "classes": ["a", "b"]}, "row 1 (train/1): label 2 is not one of 0 to 1"),
    "label negative": ({"labels": [-1], "classes": ["a", "b"]}, "row 0 (train/0): label -1"),
    "null label": ({"labels": [0, None]}, "row 1 (train/1): the label is null"),
    "null image": ({"labels": [0], "images": pa.array([None], pa.binary())}, "row 0 (train/0): the image is"),
    "path only": (
        {"labels": [0], "images": pa.array([{"bytes": None, "path": "a.jpg"}],
                                            pa.struct({"bytes": pa.binary(), "path": pa.string()}))},
        "the image is null",
    ),
    "no rows": ({"labels": pa.array([], pa.int64()), "images": pa.array([], pa.binary())}, "has no rows"),
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


def test_rows_without_a_label_in_test_are_left_out_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train-0.parquet", [0, 1, 1], classes=["cat", "dog"])
    write(tmp_path / "test-0.parquet", [-1, -1], classes=["cat", "dog"])
    write(tmp_path / "validation-0.parquet", pa.array([0, None, 1, -1]), classes=["cat", "dog"])
    source = parquet.open_source(tmp_path, "pets")
    assert set(source.splits) == {"train", "val"}
    assert source.splits["val"].labels.tolist() == [0, 1]
    assert list(source.splits["val"].images) == [b"validation-00", b"validation-02"]
    assert list(source.splits["val"].names) == ["val/0", "val/2"]
    assert "pets: the test split has no labels and is left out" in caplog.messages
    assert "pets: 2 of 4 images of the val split have no label and are left out" in caplog.messages


UNLABELLED: dict[str, Any] = {
    "null": pa.array([None, None], pa.int64()),
    "of no type": pa.array([None, None]),
    "null texts": pa.array([None, None], pa.string()),
    "-1 without names": pa.array([-1, -1]),
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_every_way_to_say_no_label(kind: str, tmp_path: Path) -> None:
    labels: Any = ["a", "b"] if kind == "null texts" else [3, 4]
    write(tmp_path / "train-0.parquet", labels)
    write(tmp_path / "test-0.parquet", UNLABELLED[kind])
    assert set(parquet.open_source(tmp_path).splits) == {"train"}


def test_a_test_split_without_a_column_of_labels_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", ["a", "b"])
    pq.write_table(pa.table({"image": [b"1", b"2"]}), tmp_path / "test-0.parquet")
    assert set(parquet.open_source(tmp_path).splits) == {"train"}


def test_minus_one_without_names_is_a_class_where_train_has_it(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [-1, 1])
    write(tmp_path / "test-0.parquet", [-1, -1])
    source = parquet.open_source(tmp_path)
    assert source.class_names == ("-1", "1")
    assert source.splits["test"].labels.tolist() == [0, 0]


def test_a_set_without_any_label_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "test-0.parquet", [-1, -1], classes=["a", "b"])
    with pytest.raises(DataError, match="no image has a label"):
        parquet.open_source(tmp_path)


@pytest.mark.parametrize("name", ["labels", "fine_label", "klass"])
def test_labels_are_found_under_other_names_where_the_schema_declares_them(name: str, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [1, 0], classes=["cat", "dog"], label=name, image="photo")
    source = parquet.open_source(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.splits["train"].labels.tolist() == [1, 0]


def test_several_columns_of_labels_are_named(tmp_path: Path) -> None:
    features = {name: {"names": ["a", "b"], "_type": "ClassLabel"} for name in ("fine_label", "coarse_label")}
    table = pa.table({"img": [b"1", b"2"], "fine_label": [0, 1], "coarse_label": [0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="fine_label, coarse_label are labels of classes, and only one can be learned"):
        parquet.open_source(tmp_path)


def test_the_layout_of_converted_sets(tmp_path: Path) -> None:
    write(tmp_path / "default" / "train" / "0000.parquet", ["a", "b"])
    write(tmp_path / "default" / "test" / "0000.parquet", ["b"])
    assert parquet.is_parquet(tmp_path)
    source = parquet.open_source(tmp_path)
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 2, "test": 1}
    assert set(parquet.open_source(tmp_path / "default").splits) == {"train", "test"}


@pytest.mark.parametrize("layout", ["{}/train-0.parquet", "{}/train/0000.parquet"])
def test_several_sets_in_one_folder_are_not_mixed(layout: str, tmp_path: Path) -> None:
    for name in ("large", "small"):
        write(tmp_path / layout.format(name), ["a", "b"])
    with pytest.raises(
        DataError, match=r"several sets of images: large, small; name one of them: .*/large\."
    ) as caught:
        parquet.open_source(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(parquet.open_source(tmp_path / "large").splits["train"]) == 2


def test_a_set_whose_splits_lie_in_folders_of_their_own_is_one(tmp_path: Path) -> None:
    write(tmp_path / "here" / "train-0.parquet", ["a", "b"])
    write(tmp_path / "there" / "test-0.parquet", ["a", "b"])
    assert set(parquet.open_source(tmp_path).splits) == {"train", "test"}


def test_a_folder_that_is_called_as_a_file_holds_its_parts(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet" / "part-0.parquet", ["a", "b"])
    assert len(parquet.open_source(tmp_path).splits["train"]) == 2
    assert len(parquet.open_source(tmp_path / "train.parquet").splits["train"]) == 2


def test_declared_classes_without_images_are_left_out_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["cat", "dog", "eel", "fox"]
    write(tmp_path / "train-0.parquet", [0, 2, 0], classes=names)
    write(tmp_path / "test-0.parquet", [2, 2], classes=names)
    source = parquet.open_source(tmp_path, "pets")
    assert source.class_names == ("cat", "eel")
    assert source.splits["train"].labels.tolist() == [0, 1, 0]
    assert source.splits["test"].labels.tolist() == [1, 1]
    assert caplog.messages == ["pets: no images of the classes 'dog', 'fox', which are left out"]


def columns_of(tmp_path: Path, **columns: Any) -> Path:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    return path


IMAGES = pa.array([b"a", b"b"], pa.binary())
OTHERS = pa.array([b"c", b"d"], pa.binary())


def test_columns_are_found_by_type_where_there_is_one_candidate(tmp_path: Path) -> None:
    source = parquet.open_source(columns_of(tmp_path, photo=IMAGES, size=[0.5, 1.5], fine_label=["x", "y"]))
    assert source.class_names == ("x", "y")
    assert list(source.splits["train"].images) == [b"a", b"b"]


def test_columns_that_could_be_several_are_named_and_may_be_chosen(tmp_path: Path) -> None:
    path = columns_of(tmp_path, front=IMAGES, back=OTHERS, fine_label=["x", "y"], coarse_label=[7, 7])
    with pytest.raises(DataError, match=r"could be any of front, back, and data.image_column=NAME names it"):
        parquet.open_source(path)
    with pytest.raises(DataError, match=r"any of fine_label, coarse_label; data.label_column=NAME names it"):
        parquet.open_source(path, options=SourceOptions(image_column="back"))
    options = SourceOptions(image_column="back", label_column="coarse_label")
    source = parquet.open_source(path, options=options)
    assert source.class_names == ("7",) and list(source.splits["train"].images) == [b"c", b"d"]
    with pytest.raises(DataError, match=r"has no column 'bck' \(data.image_column\); its columns: front, back"):
        parquet.open_source(path, options=SourceOptions(image_column="bck"))
    with pytest.raises(DataError, match="column 'fine_label' must be binary"):
        parquet.open_source(path, options=SourceOptions(image_column="fine_label"))


def test_columns_named_for_other_data_are_used_where_they_are(tmp_path: Path) -> None:
    path = columns_of(tmp_path, image=IMAGES, label=["x", "y"], other=["p", "q"])
    assert parquet.open_source(path, options=SourceOptions(label_column="other", firm=False)).class_names == ("p", "q")
    assert parquet.open_source(path, options=SourceOptions(label_column="gone", firm=False)).class_names == ("x", "y")


def test_one_of_several_configurations_may_be_chosen(tmp_path: Path) -> None:
    for name, label in (("full", "x"), ("small", "y")):
        write(tmp_path / f"{name}/train-0.parquet", [label])
    with pytest.raises(DataError, match=r"full, small; name one of them: --data.config=full"):
        parquet.open_source(tmp_path)
    assert parquet.open_source(tmp_path, options=SourceOptions(config="small")).class_names == ("y",)
    with pytest.raises(DataError, match=r"has no configuration 'tiny'; it has full, small\."):
        parquet.open_source(tmp_path, options=SourceOptions(config="tiny"))
    assert parquet.open_source(tmp_path / "small", options=SourceOptions(config="tiny", firm=False)).class_names
