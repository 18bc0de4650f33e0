"""`check` finds what is planted in a generated set, and nothing else."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter

from kcv.cli import main
from kcv.data.rarity import ADVICE
from kcv.errors import DataError, OutputError, UsageError
from kcv.tasks.check import KINDS, DataCheck, check


def scene(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Returns an image, (width, height) px, whose coarse and fine structure is like no other seed's."""
    rng = np.random.default_rng(seed)
    layers = sum(
        weight * gaussian_filter(rng.normal(size=(size[1], size[0], 3)), (sigma, sigma, 0)) * sigma
        for sigma, weight in ((12, 3), (5, 2), (2, 1))
    )
    levels = 128 + 40 * np.asarray(layers) / np.std(layers)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight clean images of each of two classes in each of three splits."""
    root = tmp_path / "photos"
    seed = 0
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                scene(seed).save(root / split / name / f"{i}.jpg", quality=90)
                seed += 1
    return root


def kinds(found: DataCheck) -> dict[str, list[set[str]]]:
    result: dict[str, list[set[str]]] = {}
    for finding in found.findings:
        result.setdefault(finding.kind, []).append({image.name for image in finding.images})
    return result


def test_a_clean_set_has_no_findings(photos: Path) -> None:
    found = check(photos)
    assert (found.findings, found.errors, found.warnings) == ([], 0, 0)
    assert found.counts == {"train": 16, "val": 16, "test": 16}


def test_planted_faults_are_found_and_nothing_else(photos: Path) -> None:
    train, test = photos / "train", photos / "test"
    whole = (train / "cat" / "0.jpg").read_bytes()
    (train / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "cat" / "empty.png").touch()
    (train / "dog" / "text.jpg").write_text("no image at all")
    scene(900).save(train / "dog" / "really.png", format="JPEG")
    scene(901).save(train / "dog" / "fine.JPG", format="JPEG")  # capitals are no fault
    shutil.copy(train / "cat" / "1.jpg", train / "cat" / "again.jpg")
    shutil.copy(train / "cat" / "2.jpg", test / "cat" / "leaked.jpg")
    shutil.copy(train / "cat" / "3.jpg", train / "dog" / "both.jpg")
    Image.open(train / "dog" / "4.jpg").resize((200, 160)).save(test / "dog" / "larger.jpg", quality=60)
    Image.new("RGB", (96, 80), "navy").save(photos / "val" / "cat" / "blank.png")
    scene(902, (400, 80)).save(photos / "val" / "cat" / "wide.png")
    scene(903, (12, 12)).save(photos / "val" / "dog" / "tiny.png")
    (train / "cat" / "notes.txt").touch()
    (train / "cat" / "raw.heic").touch()
    scene(904).save(photos / "loose.jpg")
    (train / "cat" / ".hidden.jpg").touch()

    found = check(photos)

    assert kinds(found) == {
        "unreadable": [{"train/cat/cut.jpg"}, {"train/cat/empty.png"}, {"train/dog/text.jpg"}],
        "leak": [{"train/cat/2.jpg", "test/cat/leaked.jpg"}],
        "conflict": [{"train/cat/3.jpg", "train/dog/both.jpg"}],
        "near_leak": [{"train/dog/4.jpg", "test/dog/larger.jpg"}],
        "duplicate": [{"train/cat/1.jpg", "train/cat/again.jpg"}],
        "suffix": [{"train/dog/really.png"}],
        "ignored": [{"loose.jpg"}, {"train/cat/notes.txt"}, {"train/cat/raw.heic"}],
        "blank": [{"val/cat/blank.png"}],
        "odd_size": [{"val/cat/wide.png"}, {"val/dog/tiny.png"}],
    }
    assert (found.errors, found.warnings) == (5, 9)
    assert found.leaked() == {"test": 2}
    assert found.leaked(near=False) == {"test": 1}
    messages = [finding.message for finding in found.findings]
    assert "train/cat/empty.png: the file is empty." in messages
    assert "train/dog/really.png: is JPEG" in messages
    assert "val/cat/wide.png: 400x80 px, 5 times as long as the other side" in messages
    assert "1 .jpg file, outside the class folders: loose.jpg" in messages


def recolored(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (blue, green, red))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((48, 40)),
    "squashed": lambda image: image.resize((64, 64)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "other colours": recolored,
    "cropped": lambda image: image.crop((5, 4, 91, 76)),
    "mirrored": ImageOps.mirror,
    "a mark": lambda image: (image.paste("white", (2, 2, 20, 12)), image)[1],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_copy_is_a_near_duplicate(photos: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    original = photos / "train" / "cat" / "5.jpg"
    change(Image.open(original)).save(photos / "train" / "cat" / "changed.jpg", quality=70)
    assert kinds(check(photos)) == {"near_duplicate": [{"train/cat/5.jpg", "train/cat/changed.jpg"}]}


def test_the_same_pixels_in_another_file_are_the_same_image(photos: Path) -> None:
    image = scene(77)
    image.save(photos / "train" / "cat" / "a.png")
    image.save(photos / "val" / "dog" / "b.bmp")
    names = [{"train/cat/a.png", "val/dog/b.bmp"}]
    assert kinds(check(photos)) == {"leak": names, "conflict": names}


def test_a_near_copy_of_a_copy_joins_its_group(photos: Path) -> None:
    original = photos / "train" / "cat" / "0.jpg"
    shutil.copy(original, photos / "val" / "cat" / "copy.jpg")
    Image.open(original).save(photos / "train" / "cat" / "worse.jpg", quality=30)
    assert kinds(check(photos)) == {
        "leak": [{"train/cat/0.jpg", "val/cat/copy.jpg"}],
        "near_leak": [{"train/cat/0.jpg", "val/cat/copy.jpg", "train/cat/worse.jpg"}],
    }


def test_similarity_of_one_looks_for_copies_only(photos: Path) -> None:
    original = photos / "train" / "cat" / "0.jpg"
    shutil.copy(original, photos / "train" / "cat" / "copy.jpg")
    Image.open(original).save(photos / "train" / "cat" / "worse.jpg", quality=30)
    assert list(kinds(check(photos, similarity=1))) == ["duplicate"]


def test_where_most_images_look_alike_only_the_nearest_count(photos: Path) -> None:
    for split in ("train", "val", "test"):
        for image in (photos / split).rglob("*.jpg"):
            rng = np.random.default_rng(int(image.stem) + len(str(image.parent)))
            base = np.asarray(scene(5), dtype=np.int64)
            Image.fromarray(np.clip(base + rng.normal(0, 30, base.shape), 0, 255).astype(np.uint8)).save(image)
    found = kinds(check(photos))
    assert "alike" in found
    assert "alike" not in kinds(check(photos, similarity=0.8))


def test_names_that_look_alike_are_named(photos: Path) -> None:
    for split in ("train", "val", "test"):
        (photos / split / "cat").rename(photos / split / "Dog ")
    assert [(found.kind, found.message) for found in check(photos).findings] == [
        ("names", "the class names 'Dog ', 'dog' are alike")
    ]


def test_folders_that_could_be_meant_otherwise_are_named(tmp_path: Path) -> None:
    for seed, place in enumerate(("ill/left", "ill/right", "well/left", "well/right")):
        (tmp_path / place).mkdir(parents=True)
        for i in range(5):
            scene(10 * seed + i).save(tmp_path / place / f"{i}.png")
    (finding,) = check(tmp_path).findings
    assert finding.kind == "layout"
    assert finding.message.startswith("all class folders hold the same folders ('left', 'right')")


def test_the_summary_says_what_was_understood(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "val").rename(photos / "Valid")
    scene(904).save(photos / "loose.jpg")
    assert main(["check", str(photos)]) == 0
    out = capsys.readouterr().out
    assert "splits: train (16) from train/, val (16) from Valid/, test (16) from test/\n" in out
    assert "2 classes: cat, dog\n" in out
    assert "left out: 1 file (1 .jpg), outside the class folders: loose.jpg\n" in out
    assert main(["check", str(photos), "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["understood"]["splits"]["val"] == "Valid"


def test_what_train_would_refuse_is_an_error(photos: Path) -> None:
    shutil.rmtree(photos / "test" / "dog")
    (finding,) = check(photos).findings
    assert finding.kind == "split"
    assert finding.message == "the test split has no images of the class 'dog'."


def test_imbalance(tmp_path: Path) -> None:
    for name, count in (("cat", 60), ("dog", 6)):
        (tmp_path / name).mkdir()
        for i in range(count):
            scene(i + 1000 * (name == "dog")).save(tmp_path / name / f"{i}.png")
    found = [finding.message for finding in check(tmp_path).findings if finding.kind == "imbalance"]
    assert found == [f"train has 60 images of 'cat' and 6 of 'dog', 10 times fewer; {ADVICE}"]


def test_files_hold_every_finding(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "train" / "cat" / "2.jpg", photos / "test" / "cat" / "leaked.jpg")
    (photos / "train" / "cat" / "empty.png").touch()
    found = check(photos, tmp_path / "found.json")
    check(photos, tmp_path / "found.csv")
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored == found.to_dict()
    assert stored["leaked"]["exact"] == {"test": 1}
    with (tmp_path / "found.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["finding"], row["kind"], row["picture"], row["split"], row["class"]) for row in rows] == [
        ("1", "unreadable", "train/cat/empty.png", "train", "cat"),
        ("2", "leak", "train/cat/2.jpg", "train", "cat"),
        ("2", "leak", "test/cat/leaked.jpg", "test", "cat"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_that_is_not_utf8_survives(photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xe4d.jpg")
    (photos / "train" / "cat" / name).touch()
    check(photos, tmp_path / "found.json")
    check(photos, tmp_path / "found.csv")
    (finding,) = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert finding["pictures"][0]["name"] == f"train/cat/{name}"


def test_bad_input_ends_in_one_line(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither cifar10, digits nor an existing path"):
        check(tmp_path / "none")
    with pytest.raises(UsageError, match=r"must end in \.json or \.csv"):
        check(photos, tmp_path / "found.txt")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        check(photos, tmp_path / "file" / "found.json")


def test_the_exit_code_tells_what_was_found(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(photos)]) == 0
    assert "nothing found" in capsys.readouterr().out
    shutil.copy(photos / "train" / "cat" / "1.jpg", photos / "train" / "cat" / "again.jpg")
    assert main(["check", str(photos)]) == 0
    out = capsys.readouterr().out
    assert "warning: 1 x the same image several times" in out and "0 errors, 1 warning\n" in out
    assert main(["check", str(photos), "--strict"]) == 2
    shutil.copy(photos / "train" / "cat" / "1.jpg", photos / "test" / "cat" / "leaked.jpg")
    capsys.readouterr()
    assert main(["check", str(photos), "--format=json"]) == 2
    assert json.loads(capsys.readouterr().out)["by_kind"] == {"leak": 1}


@pytest.mark.full
def test_cifar10_has_near_duplicates_as_published(data_root: Path, tmp_path: Path) -> None:
    # Barz and Denzler (2020) list 39 pairs within the test split, found by hand among a network's suggestions.
    (tmp_path / "cifar").mkdir()
    shutil.copy(next(data_root.glob("cifar10/test-*.parquet")), tmp_path / "cifar" / "all.parquet")
    found = check(tmp_path / "cifar")
    pairs = sum(len(finding.images) - 1 for finding in found.findings if finding.kind == "near_duplicate")
    assert 25 <= pairs <= 60
    assert found.errors == 0


def test_every_kind_has_a_severity_and_words() -> None:
    assert {severity for severity, _ in KINDS.values()} == {"error", "warning"}
    assert all(words and not words.endswith(".") for _, words in KINDS.values())
