"""Label files as people write them: CSV, TSV, lines of JSON and Parquet, and Hugging Face's metadata."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import kcv
from kcv.config import Config, DataConfig
from kcv.data import loading
from kcv.data.dataset import Source
from kcv.data.label_files import listing as listings
from kcv.data.label_files import missing, table
from kcv.errors import DataError

LINES = [f"img/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(8)]
CSV = "\n".join(["path,label", *LINES]) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images in a folder `img`, and one outside of the folder of the label file."""
    (tmp_path / "data" / "img").mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (8, 8), (30 * i, 0, 0)).save(tmp_path / "data" / "img" / f"{i}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    return tmp_path / "data"


Open = Callable[..., Source]


@pytest.fixture
def opened(folder: Path) -> Open:
    """Returns a function that writes a file and opens it as a source."""

    def write(content: str | bytes, name: str = "labels.csv", **options: Any) -> Source:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return loading.open_source(str(file), options=loading.options_of(DataConfig(**options)))

    return write


def seen(source: Source) -> dict[str, dict[str, str]]:
    """The label of each image, by split."""
    return {
        split: dict(zip(part.names, (source.class_names[i] for i in part.labels), strict=True))
        for split, part in source.splits.items()
    }


EXPECTED = {"train": dict(line.split(",") for line in LINES)}


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, rows))


def parquet(**columns: Any) -> bytes:
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), stream)
    return bytes(stream.getvalue())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", CSV),
        ("labels.CSV", CSV),
        ("bom.csv", "\ufeff" + CSV),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("mac.csv", CSV.replace("\n", "\r")),
        ("wide.csv", CSV.encode("utf-16")),
        ("semicolon.csv", CSV.replace(",", ";")),
        ("tab.csv", CSV.replace(",", "\t")),
        ("labels.tsv", CSV.replace(",", "\t")),
        ("spaces.csv", CSV.replace(",", " , ")),
        ("quoted.csv", "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in CSV.splitlines())),
        ("empty_lines.csv", CSV.replace("\n", "\n\n,\n")),
        ("header.csv", CSV.replace("path,label", " File_Name ,CLASS")),
        ("more.csv", "\n".join(f"{i},{line}" for i, line in enumerate(CSV.splitlines())).replace("0,p", "index,p")),
        ("by_type.csv", CSV.replace("path,label", "picture,animal")),
        ("dots.csv", CSV.replace("img/", "./img//./")),
        ("up.csv", CSV.replace("img/", "other/../img/")),
        ("windows.csv", CSV.replace("img/", "img\\")),
        ("labels.jsonl", jsonl([dict(zip(("path", "label"), line.split(","), strict=True)) for line in LINES])),
        ("labels.ndjson", jsonl([dict(zip(("image", "labels"), line.split(","), strict=True)) for line in LINES])),
        (
            "p.parquet",
            parquet(**dict(zip(("path", "label"), zip(*(x.split(",") for x in LINES), strict=True), strict=True))),
        ),
    ],
)
def test_a_label_file_is_read_as_people_write_it(opened: Open, name: str, content: str | bytes) -> None:
    source = opened(content, name)
    assert seen(source) == EXPECTED
    assert source.flat and source.class_names == ("cat", "dog")
    assert source.fingerprint == opened(CSV).fingerprint


def test_images_are_read_from_beside_the_file_from_anywhere(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(CSV)
    monkeypatch.chdir("/")
    dataset = loading.load(DataConfig(source=str(source.root / "labels.csv"), image_size=16, test_fraction=0))
    assert dataset.in_memory and len(dataset.train) + len(dataset.val) == 8
    assert dataset.understood == ("no splits: 8 images in labels.csv", "2 classes: cat, dog", "columns: path, label")


@pytest.mark.parametrize(
    ("words", "splits"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "valid", "TESTING"), ("train", "val", "test")),
        (("train", "dev", "eval"), ("train", "val", "test")),
        (("train", "eval", "test"), ("train", "val", "test")),
        (("train", "evaluation", "train"), ("train", "test")),
        (("train", "validation", "train"), ("train", "val")),
    ],
)
def test_splits_are_named_as_people_name_them(opened: Open, words: tuple[str, ...], splits: tuple[str, ...]) -> None:
    rows = [f"img/{i}.png,{i % 2},{words[i % 3]}" for i in range(6)]
    source = opened("path,label,split\n" + "\n".join(rows))
    assert tuple(source.splits) == splits and not source.flat
    assert source.understood is not None and source.understood.lines()[0].endswith(" of labels.csv")


def test_whole_numbers_are_sorted_as_numbers_and_floats_without_a_fraction_are_whole(opened: Open) -> None:
    labels = ["10", "9", "2.0", "10.0"]
    source = opened("path,label\n" + "\n".join(f"img/{i}.png,{label}" for i, label in enumerate(labels)))
    assert source.class_names == ("2", "9", "10")
    assert list(source.splits["train"].labels) == [2, 1, 0, 2]


@pytest.mark.parametrize("missing", ["", "-1", " "])
def test_rows_without_a_label_are_left_out_and_counted(opened: Open, missing: str) -> None:
    source = opened(f"path,label\nimg/0.png,a\nimg/1.png,{missing}\nimg/2.png,b\n")
    assert list(source.splits["train"].names) == ["img/0.png", "img/2.png"]
    assert source.understood is not None
    assert "left out: 1 row without a label" in source.understood.lines()


def test_json_null_and_minus_one_are_no_labels(opened: Open) -> None:
    rows = [{"path": f"img/{i}.png", "label": label} for i, label in enumerate([None, -1, 1, 0])]
    assert list(opened(jsonl(rows), "l.jsonl").splits["train"].names) == ["img/2.png", "img/3.png"]


def test_a_row_that_stands_twice_is_taken_once(opened: Open) -> None:
    source = opened(CSV + LINES[3] + "\n./" + LINES[3] + "\n")
    assert seen(source) == EXPECTED
    assert source.understood is not None
    assert "left out: 2 rows that repeat another one" in source.understood.lines()


def test_equal_hashes_are_not_taken_for_equal_names(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "hash", lambda name: 7, raising=False)
    assert seen(opened(CSV)) == EXPECTED


def test_images_elsewhere_are_read_where_the_user_names_their_folder(opened: Open, folder: Path) -> None:
    content = CSV.replace("img/", f"{folder}/img/")
    assert seen(opened(content)) == EXPECTED  # absolute, but inside
    with pytest.raises(DataError, match=r"leads out of .*--data.image_folder=PATH"):
        opened(f"path,label\n{folder.parent}/outside.png,a\nimg/0.png,b\n")
    source = opened("path,label\noutside.png,a\ndata/img/0.png,b\n", image_folder=str(folder.parent))
    assert list(source.splits["train"].names) == ["outside.png", "data/img/0.png"]


def test_columns_may_be_named(opened: Open) -> None:
    content = "path,thumb,coarse,fine\n" + "\n".join(f"img/{i}.png,img/{7 - i}.png,c{i % 2},f{i}" for i in range(8))
    with pytest.raises(DataError, match=r"it could be any of 'thumb', 'coarse', 'fine': data.label_column=NAME"):
        opened(content)
    source = opened(content, image_column="thumb", label_column="coarse")
    assert seen(source)["train"]["img/7.png"] == "c0"
    with pytest.raises(DataError, match=r"has no column 'corse' \(data.label_column\); its columns: path, thumb"):
        opened(content, label_column="corse")


def row(path: str = "img/0.png", label: str = "a") -> str:
    return f"path,label\n{path},{label}\nimg/1.png,b\n"


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("l.csv", "", "is empty"),
    "only a header": ("l.csv", "path,label\n", "has no rows"),
    "no header": ("l.csv", "\n".join(LINES), "first line must name its columns"),
    "no labels at all": ("l.csv", "path,label\nimg/0.png,\n", "no row has a label"),
    "no column of labels": ("l.csv", "path\nimg/0.png\n", "needs a column 'label'"),
    "no column of paths": ("l.csv", "a,b\n1,2\n", "needs a column 'path' or 'file_name'"),
    "two columns of paths by type": ("l.csv", "x,y,label\na.png,b.png,1\n", "'x', 'y' all hold paths"),
    "several columns of labels": ("l.csv", "path,x,y\nimg/0.png,1,2\n", "could be any of 'x', 'y'"),
    "two columns of a name": ("l.csv", "path,label,Label\nimg/0.png,1,2\n", "2 columns 'label'"),
    "too few fields": ("l.csv", "path,label\nimg/0.png\n", "line 2: has 1 fields; its first line names 2"),
    "too many fields": ("l.csv", "path,label\nimg/0.png,a,b\n", "line 2: has 3 fields"),
    "an open quote": ("l.csv", 'path,label\n"img/0.png,a\n', "is no CSV"),
    "text after a quote": ("l.csv", 'path,label\n"img/0.png"x,a\n', "is no CSV"),
    "an endless field": ("l.csv", 'path,label\n"' + "x\n" * 100_000 + '",a\n', "is no CSV"),
    "an endless line": ("l.csv", "path,label\n" + "x" * (table.MOST_LINE + 2), "longer than"),
    "a NUL": ("l.csv", row("img/0\0.png"), "holds a NUL"),
    "not UTF-8": ("l.csv", row(label="caf\xe9").encode("latin-1"), "is not UTF-8 text"),
    "cut UTF-16": ("l.csv", row().encode("utf-16")[:-1], "is not UTF-8 text"),
    "a binary file": ("l.csv", b"\x89PNG\r\n\x1a\n\0\0", "holds a NUL|is not UTF-8"),
    "too many columns": ("l.csv", ",".join(f"c{i}" for i in range(1001)) + "\n", "1,001 columns"),
    "an empty path": ("l.csv", row(""), "line 2: the path is empty"),
    "a long path": ("l.csv", row("a/" * 3000), "longer than 4,096"),
    "a path upwards": ("l.csv", row("../outside.png"), "leads out of the folder of the label file"),
    "a path upwards in the middle": ("l.csv", row("img/../../outside.png"), "leads out of"),
    "a path upwards as of Windows": ("l.csv", row("..\\outside.png"), "leads out of"),
    "an absolute path": ("l.csv", row("/etc/passwd"), "leads out of"),
    "a drive": ("l.csv", row("C:\\images\\0.png"), "leads out of"),
    "a URL": ("l.csv", row("https://host/0.png"), "is a URL"),
    "a file URL": ("l.csv", row("file:///etc/passwd"), "is a URL"),
    "the folder itself": ("l.csv", row("img/.."), "is a folder"),
    "a folder": ("l.csv", row("img"), "1 of 2 images are not in"),
    "missing images": ("l.csv", row("img/99.png"), r"1 of 2 images are not in .*: img/99.png"),
    "names without a suffix": ("l.csv", "path,label\n0,a\n1,b\n", "The names have no suffix"),
    "two labels": ("l.csv", row() + "img/0.png,b\n", "img/0.png stands twice, with the labels 'a' and 'b'"),
    "two labels in two spellings": ("l.csv", row() + "./img//0.png,b\n", "stands twice"),
    "two splits": ("l.csv", "path,label,split\nimg/0.png,a,train\nimg/0.png,a,test\n", "stands in two splits"),
    "an unknown split": ("l.csv", "path,label,split\nimg/0.png,a,fold1\n", "'fold1' is no split"),
    "some without a split": ("l.csv", "path,label,split\nimg/0.png,a,train\nimg/1.png,a,\n", "some rows have no split"),
    "a long label": ("l.csv", row(label="x" * 1001), "a label of 1,001 characters"),
    "a label that paints the terminal": ("l.csv", row(label="\x1b[2J"), "control characters"),
    "JSON that is none": ("l.jsonl", "{'path': 1}\n", "line 1: is no JSON"),
    "JSON of lists": ("l.jsonl", '["img/0.png", "a"]\n', "line 1: is no object"),
    "deep JSON": ("l.jsonl", '{"path": ' + "[" * 500_000 + "\n", "nested too deeply"),
    "a key twice": ("l.jsonl", '{"path": "a", "path": "b"}\n', "a key stands twice"),
    "several labels": ("l.jsonl", '{"path": "img/0.png", "label": ["a", "b"]}\n', "is a list"),
    "a label true": ("l.jsonl", '{"path": "img/0.png", "label": true}\n', "a name or a whole number, not bool"),
    "a label 1.5": ("l.jsonl", '{"path": "img/0.png", "label": 1.5}\n', "not float"),
    "a path that is a number": ("l.jsonl", '{"path": 3, "label": "a"}\n', "the path is no text"),
    "a path that is missing": ("l.jsonl", '{"path": "img/0.png", "label": "a"}\n{"label": "a"}', "line 2: the path is"),
    "half a character": ("l.jsonl", '{"path": "\\ud800", "label": "a"}\n', "is no file name"),
    "a split that is a number": ("l.jsonl", '{"path": "img/0.png", "label": "a", "split": 1}\n', "split must be"),
    "Parquet that is none": ("l.parquet", b"PAR1 no PAR1", "cannot be read as Parquet"),
    "Parquet of numbers": ("l.parquet", parquet(a=[1.5], b=[2.5]), "needs a column"),
    "Parquet with a long text": ("l.parquet", parquet(path=["x" * 20_000], label=["a"]), "holds a text of 20,000"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_label_file_ends_in_one_line(opened: Open, case: str) -> None:
    name, content, words = BAD[case]
    with pytest.raises(DataError, match=words) as caught:
        opened(content, name)
    assert "\n" not in str(caught.value).replace("\\n", "") and len(str(caught.value)) < 1500


@pytest.mark.parametrize("limit", ["MOST_ROWS", "MOST_BYTES", "MOST_SECONDS"])
def test_rows_bytes_and_seconds_are_bounded(opened: Open, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(table, limit, -1.0 if limit == "MOST_SECONDS" else 5)
    monkeypatch.setattr(table, "_CHECKED", 4)
    with pytest.raises(DataError, match=r"more than 5 rows|larger than 5 bytes|takes longer than"):
        opened(CSV)


def test_a_link_or_a_pipe_is_no_label_file_that_blocks(folder: Path) -> None:
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(DataError, match="is neither"):
        loading.open_source(str(folder / "pipe.csv"))


def test_a_large_folder_is_listed_once_and_what_is_missing_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["img/7.png", "img/nope.png", *(f"img/{i}.png" for i in range(7)), "other/a.png"]
    expected = ["img/nope.png", "other/a.png"]
    assert missing.missing_files(folder, names) == expected
    monkeypatch.setattr(missing, "_FEW", 1)
    assert missing.missing_files(folder, names) == expected


def metadata(folder: Path, name: str, rows: list[str], header: str = "file_name,label") -> None:
    (folder / name).write_text("\n".join([header, *rows]))


def test_metadata_of_hugging_face_labels_a_folder(folder: Path) -> None:
    metadata(folder / "img", "metadata.csv", [f"{i}.png,{i % 2}" for i in range(8)])
    source = loading.open_source(str(folder / "img"))
    assert source.flat and source.class_names == ("0", "1") and len(source.splits["train"]) == 8
    (folder / "img" / "metadata.csv").unlink()
    rows = [{"file_name": f"{i}.png", "label": i % 2} for i in range(8)]
    (folder / "img" / "metadata.jsonl").write_text(jsonl(rows))
    assert loading.open_source(str(folder / "img")).fingerprint == source.fingerprint
    (folder / "img" / "metadata.jsonl").unlink()
    (folder / "img" / "metadata.parquet").write_bytes(
        parquet(file_name=[f"{i}.png" for i in range(8)], label=[i % 2 for i in range(8)])
    )
    assert loading.open_source(str(folder / "img")).fingerprint == source.fingerprint


def test_metadata_per_split_folder_and_paths_into_split_folders_are_the_same(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (0, 30 * i, 0)).save(tmp_path / "set" / split / f"{i}.png")
        metadata(tmp_path / "set" / split, "metadata.csv", [f"{i}.png,{'ab'[i % 2]}" for i in range(4)])
    source = loading.open_source(str(tmp_path / "set"))
    assert list(source.splits) == ["train", "val"] and source.class_names == ("a", "b")
    assert next(iter(source.splits["val"].names)) == "validation/0.png"
    assert source.understood is not None
    assert source.understood.listed == "train/metadata.csv, validation/metadata.csv"
    for split in ("train", "validation"):
        (tmp_path / "set" / split / "metadata.csv").unlink()
    rows = [f"{split}/{i}.png,{'ab'[i % 2]}" for split in ("train", "validation") for i in range(4)]
    metadata(tmp_path / "set", "metadata.csv", rows)
    assert loading.open_source(str(tmp_path / "set")).fingerprint == source.fingerprint


def test_class_folders_stay_class_folders_beside_metadata_without_labels(images: Path, tmp_path: Path) -> None:
    place = tmp_path / "tree"
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / name / "0.png")
    for content in ("file_name,text\na/0.png,hello\n", "no,table\n1\n", ""):
        (place / "metadata.csv").write_text(content)
        assert loading.open_source(str(place)).class_names == ("a", "b")
    (place / "metadata.csv").write_text("file_name,label\na/0.png,x\nb/0.png,y\n")
    assert loading.open_source(str(place)).class_names == ("x", "y")


@pytest.mark.parametrize("key", ["image_column", "label_column", "config", "image_folder"])
def test_an_option_that_a_source_does_not_have_is_refused(images: Path, key: str) -> None:
    for source in (str(images), "digits"):
        with pytest.raises(DataError, match=f"data.{key} has no meaning here"):
            loading.load(DataConfig(source=source, **{key: "x"}))


@pytest.mark.full
def test_a_model_trained_on_a_label_file_is_evaluated_on_it_and_on_other_forms_of_the_same_images(
    images: Path, tmp_path: Path, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(images.rglob("*.png"))
    rows = [(file.relative_to(images).as_posix(), file.parent.name, file.parent.parent.name) for file in files]
    (tmp_path / "labels.csv").write_text("\n".join(map(",".join, [("file", "kind", "split"), *rows])))
    shutil.make_archive(str(tmp_path / "images"), "zip", images)
    options = {"data.image_folder": str(images), "data.label_column": "kind", "data.image_size": 16, "epochs": 1}
    run = kcv.train(configure(data=str(tmp_path / "labels.csv"), **options))
    monkeypatch.chdir("/")
    own = kcv.evaluate(run.directory, output_dir=tmp_path / "own", plots=False).metrics
    shutil.copy(tmp_path / "labels.csv", tmp_path / "other.csv")
    for number, data in enumerate(("labels.csv", "images.zip", str(images))):
        target = tmp_path / str(number)
        assert kcv.evaluate(run.directory, str(tmp_path / data), output_dir=target, plots=False).metrics == own
    with pytest.raises(DataError, match="are not in"):  # the folder was named for other data
        kcv.evaluate(run.directory, data=str(tmp_path / "other.csv"), output_dir=tmp_path / "c")


def test_the_commands_take_label_files_and_refuse_bad_ones_before_a_run(kcv: Any, folder: Path) -> None:
    (folder / "labels.csv").write_text(row("../outside.png"))
    failed = kcv("train", "--data=labels.csv", "--output_dir=run", cwd=folder)
    assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1
    assert not (folder / "run").exists()
    (folder / "labels.csv").write_text(CSV.replace("path,label", "path,a,b").replace("png,", "png,x,"))
    assert "could be any of 'a', 'b'" in kcv("check", "labels.csv", cwd=folder).stderr
    checked = kcv("check", "labels.csv", "--label_column=b", cwd=folder)
    assert "8 train images of 2 classes" in checked.stdout and "could have been meant" not in checked.stdout
    assert "no splits: 8 images in labels.csv" in checked.stdout + checked.stderr
