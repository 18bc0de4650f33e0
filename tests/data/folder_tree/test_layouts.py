"""Folder trees as people have them: what each is taken for, or why it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kcv.data.dataset import Source
from kcv.data.folder_tree import source as folder
from kcv.errors import DataError


def grow(root: Path, files: dict[str, int | str]) -> Path:
    """Makes empty files: under a path so many, `{}` being the number; or under a path its text."""
    for path, content in files.items():
        for i in range(content if isinstance(content, int) else 1):
            file = root / path.format(i)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content if isinstance(content, str) else "")
    return root


def counts(source: Source) -> dict[str, int]:
    return {split: len(samples) for split, samples in source.splits.items()}


@dataclass
class Case:
    """A tree, and what it is: classes and images by split (`all`: no splits), and words of the summary."""

    files: dict[str, int | str]
    classes: str
    images: dict[str, int]
    says: list[str] = field(default_factory=list)


UNDERSTOOD = {
    "Kaggle Training and Testing": Case(
        {"Training/glioma/{}.jpg": 3, "Training/notumor/{}.jpg": 3, "Testing/glioma/{}.jpg": 1,
         "Testing/notumor/{}.jpg": 1},
        "glioma notumor",
        {"train": 6, "test": 2},
        ["splits: train (6) from Training/, test (2) from Testing/", "2 classes: glioma, notumor"],
    ),
    "Kaggle train, valid, test in one folder": Case(
        {f"archive/dataset/{split}/{name}/{{}}.jpg": 2 for split in ("train", "valid", "test") for name in ("a", "b")},
        "a b",
        {"train": 4, "val": 4, "test": 4},
        ["splits: train (4) from archive/dataset/train/, val (4) from archive/dataset/valid/, "
         "test (4) from archive/dataset/test/"],
    ),
    "Kaggle folder beside its own copy": Case(
        {"train/n/{}.jpg": 2, "train/p/{}.jpg": 2, "test/n/{}.jpg": 1, "test/p/{}.jpg": 1,
         "chest_xray/train/n/{}.jpg": 2, "__MACOSX/train/n/._{}.jpg": 2},
        "n p",
        {"train": 4, "test": 2},
        ["left out: 2 files (2 .jpg), beside the splits: chest_xray/train/n/0.jpg ..."],
    ),
    "Kaggle seg_train/seg_train with images to predict": Case(
        {"seg_train/seg_train/sea/{}.jpg": 2, "seg_train/seg_train/ice/{}.jpg": 2, "seg_test/seg_test/sea/{}.jpg": 1,
         "seg_test/seg_test/ice/{}.jpg": 1, "seg_pred/seg_pred/{}.jpg": 3},
        "ice sea",
        {"train": 4, "test": 2},
        ["splits: train (4) from seg_train/seg_train/, test (2) from seg_test/seg_test/",
         "taken for splits by a word in their names: 'seg_test', 'seg_train'",
         "left out: 3 files (3 .jpg), beside the splits: seg_pred/seg_pred/0.jpg ..."],
    ),
    "Kaggle training_set and test_set": Case(
        {"training_set/training_set/cats/{}.jpg": 2, "training_set/training_set/dogs/{}.jpg": 2,
         "test_set/test_set/cats/{}.jpg": 1, "test_set/test_set/dogs/{}.jpg": 1},
        "cats dogs",
        {"train": 4, "test": 2},
    ),
    "train with classes, test without labels": Case(
        {"train/cat/{}.jpg": 3, "train/dog/{}.jpg": 3, "test/{}.jpg": 10, "sample_submission.csv": "id,label"},
        "cat dog",
        {"train": 6},
        ["left out: 10 files (10 .jpg), in a test split without class folders: test/0.jpg ...",
         "left out: 1 file (1 .csv), not a format that is read: sample_submission.csv"],
    ),
    "Roboflow classification": Case(
        {f"{split}/{name}/a_{{}}_jpg.rf.0b1c.jpg": 2 for split in ("train", "valid", "test") for name in ("a", "b")}
        | {"README.dataset.txt": "by", "README.roboflow.txt": "by"},
        "a b",
        {"train": 4, "val": 4, "test": 4},
    ),
    "Synology thumbnails": Case(
        {"cat/{}.jpg": 3, "dog/{}.jpg": 3, "@eaDir/cat/{}.jpg": 2, "cat/@eaDir/0.jpg/SYNOFILE_THUMB_M.jpg": 1,
         "#recycle/{}.jpg": 4, "$RECYCLE.BIN/{}.jpg": 1, "lost+found/{}.jpg": 1, "dog/Thumbs.db": 1},
        "cat dog",
        {"all": 6},
        ["no splits: 6 images in class folders", "2 classes: cat, dog"],
    ),
    "a zip file of macOS": Case(
        {"pets/cat/{}.jpg": 2, "pets/dog/{}.jpg": 2, "__MACOSX/pets/cat/._{}.jpg": 2, "pets/.DS_Store": 1},
        "pets",
        {"all": 4},
        ["all images are below the one folder 'pets'; if the folders in it are the classes, name it: "
         "--data=PATH/pets"],
    ),
    "notebooks": Case(
        {"cat/{}.jpg": 2, "dog/{}.jpg": 2, ".ipynb_checkpoints/{}.jpg": 2, "cat/.ipynb_checkpoints/{}.jpg": 1},
        "cat dog",
        {"all": 4},
    ),
    "ImageNet": Case(
        {f"ILSVRC/Data/CLS-LOC/{split}/{synset}/{{}}.JPEG": 2 for split in ("train", "val")
         for synset in ("n01440764", "n01443537")} | {"ILSVRC/Annotations/CLS-LOC/val/{}.xml": 4},
        "n01440764 n01443537",
        {"train": 4, "val": 4},
        ["left out: 4 files (4 .xml), not a format that is read: ILSVRC/Annotations/CLS-LOC/val/0.xml ..."],
    ),
    "Hugging Face imagefolder": Case(
        {"train/cat/{}.png": 2, "train/dog/{}.png": 2, "train/metadata.csv": "file_name,text",
         "dev/cat/{}.png": 1, "dev/dog/{}.png": 1, "eval/cat/{}.png": 1, "eval/dog/{}.png": 1},
        "cat dog",
        {"train": 4, "val": 2, "test": 2},
    ),
    "class folders": Case({"cat/{}.jpg": 2, "dog/{}.jpg": 1}, "cat dog", {"all": 3}),
    "nested class folders": Case(
        {"cat/persian/{}.jpg": 2, "cat/old/siamese/{}.jpg": 2, "dog/{}.jpg": 2}, "cat dog", {"all": 6}
    ),
    "nested class folders, all alike": Case(
        {f"{name}/{eye}/{{}}.jpg": 1 for name in ("ill", "well") for eye in ("left", "right")},
        "ill well",
        {"all": 4},
        ["all class folders hold the same folders ('left', 'right'); if those are the classes, call the outer ones "
         "train, val and test, or name one of them"],
    ),
    "capitals": Case(
        {"TRAIN/a/{}.jpg": 2, "TRAIN/b/{}.jpg": 2, "VAL/a/{}.jpg": 1, "VAL/b/{}.jpg": 1},
        "a b",
        {"train": 4, "val": 2},
    ),
    "a class that a split lacks": Case({"train/a/{}.jpg": 2, "train/b/{}.jpg": 2, "test/a/{}.jpg": 1}, "a b",
                                       {"train": 4, "test": 1}),
    "loose images on each level": Case(
        {"cover.jpg": 1, "train/preview.jpg": 1, "test/preview.jpg": 1} | {
            f"{split}/{name}/{{}}.jpg": 2 for split in ("train", "test") for name in ("a", "b")},
        "a b",
        {"train": 4, "test": 4},
        ["left out: 3 files (3 .jpg), outside the class folders: cover.jpg ..."],
    ),
    "formats that are not read": Case(
        {"cat/{}.jpg": 2, "dog/{}.jpg": 2, "dog/IMG_{}.HEIC": 40, "dog/x{}.avif": 5, "drawing.svg": 1},
        "cat dog",
        {"all": 4},
        ["left out: 46 files (40 .heic, 5 .avif, 1 .svg), not a format that is read: dog/IMG_0.HEIC ..."],
    ),
    "a class called train": Case(
        {"train/{}.jpg": 2, "bus/{}.jpg": 2, "car/{}.jpg": 2},
        "bus car train",
        {"all": 6},
        ["'train' is taken for a class: images lie in it, and folders beside it"],
    ),
    "classes called like splits, made clear": Case(
        {"train/test/{}.jpg": 2, "train/control/{}.jpg": 2}, "control test", {"train": 4}
    ),
    "classes that hold such a word": Case(
        {"steam_train/{}.jpg": 2, "freight_train/{}.jpg": 2, "bus/{}.jpg": 2},
        "bus freight_train steam_train",
        {"all": 6},
    ),
    "what kcv left there": Case(
        {"cat/{}.jpg": 2, "dog/{}.jpg": 2, "runs/run/1/config.yaml": 1, "runs/run/1/environment.json": 1,
         "runs/run/1/model.keras": 1, "runs/run/1/evaluation/metrics.json": 1, "runs/run/1/evaluation/per_class.csv": 1,
         "runs/run/1/evaluation/roc.png": 1, "mlartifacts/1/0a/artifacts/roc.png": 1, "mlflow.db": 1,
         "evaluation/metrics.json": 1, "evaluation/per_class.csv": 1, "evaluation/roc.png": 1,
         "why/cat_overlay.png": 1, "why/cat_side_by_side.png": 1, "why/cat_heatmap.npy": 1, "why/grid.png": 1},
        "cat dog",
        {"all": 4},
        ["not looked at: evaluation, mlartifacts, runs, why, made by kcv or MLflow"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDERSTOOD.values(), ids=UNDERSTOOD.keys())
def test_a_tree_is_taken_for_what_it_is(tmp_path: Path, case: Case) -> None:
    source = folder.open_source(grow(tmp_path, case.files), "data")
    assert " ".join(source.class_names) == case.classes
    assert source.flat == ("all" in case.images)
    assert counts(source) == {("train" if split == "all" else split): n for split, n in case.images.items()}
    assert source.understood is not None
    lines = source.understood.lines()
    assert [line for line in case.says if line not in lines] == [], lines
    if not any("left out" in line for line in case.says):
        assert not any(one.suffix == ".jpg" for one in source.understood.left_out), lines


REFUSED = {
    "splits without class folders": (
        {"train/{}.jpg": 3, "valid/{}.jpg": 1, "test/{}.jpg": 1, "train/_classes.csv": "filename, cat, dog"},
        "no class folders in 'test', 'train', 'valid'; sort the images into test/<class>, or rename what is a class",
    ),
    "one split without class folders": ({"test/{}.jpg": 3}, "no class folders in 'test'"),
    "ImageNet with a flat val": (
        {"train/n01/{}.JPEG": 2, "train/n02/{}.JPEG": 2, "val/{}.JPEG": 4},
        "val holds images but no class folders; sort them into val/<class>, or move it away",
    ),
    "train without, val with class folders": (
        {"train/{}.jpg": 9, "val/a/{}.jpg": 2, "val/b/{}.jpg": 2}, "train holds images but no class folders"
    ),
    "two folders for one split": (
        {"train/a/{}.jpg": 2, "valid/a/{}.jpg": 2, "dev/a/{}.jpg": 2}, "dev and valid are both the val split; keep one"
    ),
    "one split in two cases": ({"Train/a/{}.jpg": 2, "train/b/{}.jpg": 2}, "Train and train are both the train split"),
    "classes called test and control": (
        {"test/{}.jpg": 2, "control/{}.jpg": 2},
        "can be read two ways: 'test' may be a split, or a class beside 'control'. If it is a class, put all of them "
        "into PATH/train/; if it is a split, move the others away.",
    ),
    "a nested class called train": (
        {"train/steam/{}.jpg": 2, "train/diesel/{}.jpg": 2, "bus/{}.jpg": 2, "car/{}.jpg": 2},
        "can be read two ways: 'train' may be a split, or a class beside 'bus', 'car'",
    ),
    "classes called train and test": (
        {"train/{}.jpg": 2, "test/{}.jpg": 2, "bus/{}.jpg": 2}, "can be read two ways"
    ),
    "splits in class folders": (
        {f"{name}/{split}/{{}}.jpg": 2 for name in ("cat", "dog") for split in ("train", "test")},
        "the folder cat holds splits ('test', 'train'), which would be mixed in one class",
    ),
    "splits deep in class folders": (
        {f"{name}/images/{split}/{{}}.jpg": 2 for name in ("cat", "dog") for split in ("train", "test")},
        "the folder cat/images holds splits",
    ),
    "one class a split, in class folders": ({"cat/train/{}.jpg": 2, "dog/test/{}.jpg": 2}, "hold splits"),
    "two data sets": (
        {f"{name}/{split}/a/{{}}.jpg": 2 for name in ("one", "two") for split in ("train", "test")},
        "name it: --data=PATH/one",
    ),
    "names that carry split and class": (
        {f"{name}_{split}/{{}}.jpg": 2 for name in ("cat", "dog") for split in ("train", "test")},
        "no class folders in 'cat_test', 'cat_train', 'dog_test', 'dog_train'",
    ),
    "one class a split folder": (
        {"train/cat/{}.jpg": 2, "test/dog/{}.jpg": 2}, "the test split: has a class that the train split does not have"
    ),
    "splits in a split": (
        {"train/train/{}.jpg": 2, "train/test/{}.jpg": 2}, "train holds splits itself ('test', 'train')"
    ),
    "more beside class folders than in them": (
        {"train/{}.jpg": 9, "train/thumbs/{}.jpg": 3, "train/more/{}.jpg": 3, "test/{}.jpg": 2},
        "train holds 9 images beside its class folders and 6 in them",
    ),
    "no image in a split": ({"train/a/{}.jpg": 2, "val/a/{}.heic": 2}, "no images in val"),
    "one name in two Unicode forms": ({"caf\u00e9/{}.jpg": 2, "cafe\u0301/{}.jpg": 2}, "two Unicode forms"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_tree_that_can_be_read_two_ways_is_refused(tmp_path: Path, files: dict[str, int | str], words: str) -> None:
    with pytest.raises(DataError) as caught:
        folder.open_source(grow(tmp_path, files), "data")
    assert words in str(caught.value)
    assert str(caught.value).startswith("data: ")
    assert "\n" not in str(caught.value)
