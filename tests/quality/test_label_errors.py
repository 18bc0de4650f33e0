"""`kcv check --model` and the page: which labels are probably wrong."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcv.data.dataset import Samples
from kcv.data.loading import open_source
from kcv.errors import DataError
from kcv.inference import out_of_fold
from kcv.inference.out_of_fold import OutOfFold
from kcv.quality.copies.folds import pool_of
from kcv.reporting.label_errors import suspected_labels, write_label_errors
from kcv.tasks.check import check
from kcv.training.run_folder import Run

Command = Callable[..., object]


@pytest.fixture
def mislabelled(images: Path, tmp_path: Path) -> Path:
    """Images that no model has seen; `moved-left-0.png` and the like are of the left, and in the class top."""
    data = tmp_path / "data" / "test"
    shutil.copytree(images / "test", data)
    for true, given in (("left", "top"), ("top", "centre")):
        for number in range(2):
            shutil.move(data / true / f"00{number}.png", data / given / f"moved-{true}-{number}.png")
    return data


def predictions(source_folder: Path, path: Path, wrong: int) -> OutOfFold:
    """Writes out-of-fold predictions that are sure of every label but that of one image."""
    source = open_source(str(source_folder))
    pool = pool_of(source)
    scores = np.full((len(pool), 3), 0.02) + 0.94 * np.eye(3)[pool.labels]
    scores[wrong] = 0.005
    scores[wrong, (pool.labels[wrong] + 1) % 3] = 0.99
    folds = np.arange(len(pool)) % 2 + 1
    found = OutOfFold(pool.names, pool.labels, folds, np.arange(len(pool)), scores, source.class_names)
    path.mkdir(parents=True, exist_ok=True)
    found.write(path / out_of_fold.FILE)
    return found


def test_images_in_the_wrong_class_are_found_by_a_model(mislabelled: Path, trained_run: Run, tmp_path: Path) -> None:
    found = check(mislabelled, tmp_path / "out" / "findings.json", model=trained_run.directory)
    assert found.labels is not None
    assert found.labels.rows
    for row in found.labels.rows:
        given, true = re.fullmatch(r"(top|centre)/moved-(left|top)-\d.png", row["path"]).groups()
        assert (row["label"], row["suggested"]) == (given, true)
    told = [finding for finding in found.findings if finding.kind == "label_error"]
    assert re.fullmatch(r"\w+/moved-\w+-\d.png: labelled \w+, looks like \w+ \(\d+%\)", told[0].message)
    assert (told[0].images[0].split, told[0].severity) == ("train", "warning")
    values = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert values["label_errors"]["suspects"] == len(found.labels.rows) == values["by_kind"]["label_error"]
    with (tmp_path / "out" / "label_errors.csv").open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == [row["path"] for row in found.labels.rows]
    page = (tmp_path / "out" / "label_errors.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == len(found.labels.rows)
    assert f"{found.labels.rows[0]['label']} → {found.labels.rows[0]['suggested']}?" in page


def test_an_exported_file_finds_the_same(mislabelled: Path, exported: object, trained_run: Run, tmp_path: Path) -> None:
    keras = check(mislabelled, tmp_path / "one" / "f.csv", model=trained_run.directory).labels
    onnx = check(mislabelled, tmp_path / "two" / "f.csv", model=exported.path).labels  # type: ignore[attr-defined]
    assert keras is not None
    assert onnx is not None
    assert [row["path"] for row in keras.rows] == [row["path"] for row in onnx.rows]


def test_a_model_that_was_trained_on_the_images_is_named_as_such(
    images: Path, trained_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check(images, tmp_path / "findings.csv", model=trained_run.model_path)
    assert "was trained on these images" in caplog.text
    caplog.clear()
    check(images / "test", tmp_path / "findings.csv", model=trained_run.model_path)
    assert "was trained on these images" not in caplog.text


def test_a_folder_of_folds_is_read_for_its_out_of_fold_predictions(images: Path, tmp_path: Path) -> None:
    written = predictions(images, tmp_path / "folds", wrong=7)
    found = check(images, tmp_path / "findings.csv", model=tmp_path / "folds").labels
    assert found is not None
    assert [row["path"] for row in found.rows] == [written.names[7]]
    assert found.rows[0]["probability"] == pytest.approx(0.99)


def test_predictions_are_read_as_they_were_written(images: Path, tmp_path: Path) -> None:
    written = predictions(images, tmp_path, wrong=3)
    read = OutOfFold.read(tmp_path / out_of_fold.FILE, written.names, written.labels, written.class_names)
    assert (read.probabilities == written.probabilities).all()
    assert (read.folds == written.folds).all()
    assert (read.groups == written.groups).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("probability of left", "probability of right"), "is of other classes"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "is of 113 images"),
        (lambda text: text.replace("train/left/000.png", "train/left/00x.png"), "is of other images"),
        (lambda text: re.sub(r"(000\.png,\d+,\d+),left,", r"\1,top,", text), "other images than the data, or of other"),
        (lambda text: text.replace(",0.02", ",nan", 1), "no probabilities"),
        (lambda text: text.replace(",0.02", ",2.02", 1), "no probabilities"),
        (lambda text: text.replace(",0.02", ",", 1), "is no table"),
        (lambda text: text.replace("train/", '"', 1), "is no table"),
        (lambda text: "", "is no table"),
    ],
)
def test_other_predictions_are_refused_in_one_line(
    images: Path, tmp_path: Path, change: Callable[[str], str], told: str
) -> None:
    predictions(images, tmp_path, wrong=3)
    path = tmp_path / out_of_fold.FILE
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=told) as caught:
        check(images, model=tmp_path)
    assert "\n" not in str(caught.value)


def test_names_and_classes_are_text_on_the_page(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>.png", "b.png", "c.png", "d.png"]
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.1, 0.9], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    found = suspected_labels(names, labels, scores, ["<b>", "=1+1"])
    pixels = [np.zeros((4, 4, 3), np.uint8)] * 4
    write_label_errors(tmp_path, found, Samples(pixels, labels, names), data="<i>", measured="a & b")
    page = (tmp_path / "label_errors.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page
    assert "&lt;b&gt; → =1+1?" in page
    assert "'=1+1" in (tmp_path / "label_errors.csv").read_text(encoding="utf-8")


def test_an_image_that_cannot_be_read_is_left_out(mislabelled: Path, trained_run: Run, tmp_path: Path) -> None:
    (mislabelled / "left" / "005.png").write_bytes(b"no image")
    found = check(mislabelled, tmp_path / "findings.csv", model=trained_run.directory)
    assert found.labels is not None
    assert found.labels.images == 23
    assert all("moved" in row["path"] for row in found.labels.rows)
    for path in mislabelled.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="no image that can be read"):
        check(mislabelled, tmp_path / "findings.csv", model=trained_run.directory)


def test_classes_that_the_model_does_not_know_are_refused(mislabelled: Path, trained_run: Run) -> None:
    (mislabelled / "dog").mkdir()
    Image.new("RGB", (16, 16)).save(mislabelled / "dog" / "one.png")
    with pytest.raises(DataError, match="dog"):
        check(mislabelled, model=trained_run.directory)
