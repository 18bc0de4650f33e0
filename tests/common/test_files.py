"""A file is whole or it is as it was."""

import csv
import errno
import os
import stat
import subprocess
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest

from kcv.common import leftovers
from kcv.common.files import atomic, escape_formula, temporary_folder, write_csv, write_json, write_text
from kcv.errors import OutputError


def test_what_is_written_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "notes.txt"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == ".txt"
        assert temporary.parent == path.parent
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["notes.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_others_may_read_it_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "notes.txt", "é\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "notes.txt").stat().st_mode) == 0o640
    assert (tmp_path / "notes.txt").read_bytes() == "é\n".encode()


def test_a_place_that_cannot_be_written_to_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file/notes\.txt: ") as caught:
        write_text(tmp_path / "file" / "notes.txt", "text")
    assert "\n" not in str(caught.value)


def test_a_temporary_folder_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError), temporary_folder("kcv-test-") as folder:
        (folder / "a").touch()
        assert (folder.parent, folder.name[:9]) == (tmp_path, "kcv-test-")
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_that_cannot_be_written_to_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "cannot write to {}: {}; TMPDIR names another folder"
    with pytest.raises(OutputError) as caught, temporary_folder() as folder:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == told.format(folder, "No space left on device")
    with pytest.raises(OutputError) as caught, temporary_folder() as folder:
        (folder / "none" / "a").write_text("x")
    assert str(caught.value) == told.format(folder, "No such file or directory")
    with pytest.raises(FileNotFoundError), temporary_folder():  # which is about another file
        (tmp_path / "none" / "a").write_text("x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    told = r"^cannot create a temporary folder: No such file or directory; TMPDIR names another folder$"
    with pytest.raises(OutputError, match=told), temporary_folder():
        pass


def test_json_and_csv_are_written_for_other_programs(tmp_path):
    write_json(tmp_path / "a.json", {"name": "élan", "value": 0.1, "none": None})
    assert (tmp_path / "a.json").read_text() == '{\n  "name": "élan",\n  "value": 0.1,\n  "none": null\n}\n'
    with pytest.raises(OutputError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"value": float("nan")})
    assert not (tmp_path / "b.json").exists()
    write_csv(tmp_path / "a.csv", ["class", "f1"], [["a, b", None], ['"c"', 0.5]])
    assert (tmp_path / "a.csv").read_bytes() == b'class,f1\n"a, b",\n"""c""",0.5\n'


def test_a_file_is_flushed_to_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("flushed"))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append("renamed"), replace(old, new)))
    write_text(tmp_path / "a.txt", "a")
    assert events == ["flushed", "renamed", "flushed"]  # the file, and then the folder with its name


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-x", "@SUM(A1)", "\t=1", "\n=1", "-1\n", "+", "-2+3", "-1e", "+٣"])
def test_no_text_is_a_formula_in_a_table(text, tmp_path):
    write_csv(tmp_path / "a.csv", ["name", text], [["plain = text", -1]])
    with (tmp_path / "a.csv").open(newline="") as stream:
        header, row = csv.reader(stream)
    assert header == ["name", f"'{text}"]
    assert row == ["plain = text", "-1"]  # a number is a number


@pytest.mark.parametrize("text", ["-1", "+1", "-0.5", "+1e3", "-.5", "-1.", "-1E-7", "0"])
def test_a_text_that_is_a_number_stays_as_it_is(text, tmp_path):
    assert escape_formula(text) == text
    write_csv(tmp_path / "a.csv", [text], [[text]])
    assert (tmp_path / "a.csv").read_text() == f"{text}\n{text}\n"


@pytest.mark.parametrize("reader", ["csv", "pandas"])
def test_line_ends_inside_a_text_come_back(reader, tmp_path):
    texts = ["a\rb", "a\nb", "a\r\nb", "b\r", 'c"\r"', "d,e", "plain", " "]
    write_csv(tmp_path / "a.csv", ["name", "number"], [[text, i] for i, text in enumerate(texts)])
    if reader == "csv":
        with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))[1:]
    else:
        pandas = pytest.importorskip("pandas")
        rows = pandas.read_csv(tmp_path / "a.csv", dtype=str, lineterminator=None).to_numpy().tolist()
    assert rows == [[text, str(i)] for i, text in enumerate(texts)]


@pytest.mark.full
def test_a_table_is_written_row_by_row(tmp_path):
    rows = [[str(i), *[i] * 1000] for i in range(3)]
    tracemalloc.start()
    write_csv(tmp_path / "a.csv", ["row", *map(str, range(1000))], (rows[i % 3] for i in range(2000)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert (tmp_path / "a.csv").stat().st_size > 4_000_000


def test_an_error_in_the_rows_leaves_the_old_table(tmp_path):
    def rows():
        yield [1]
        raise ValueError

    write_csv(tmp_path / "a.csv", ["old"], [])
    with pytest.raises(ValueError):
        write_csv(tmp_path / "a.csv", ["new"], rows())
    assert (tmp_path / "a.csv").read_text() == "old\n"


def left(folder: Path, name: str, process: int, system: str | None = None, days: float = 0) -> Path:
    """Makes a file as a process leaves it that was killed while it wrote `name`, some days ago."""
    path = Path(name)
    own = leftovers.prefix(path).replace(f"-{os.getpid()}-", f"-{process}-")
    if system is not None:
        own = own.replace(leftovers._system(), system)
    file = folder / f"{own}abcd_123{path.suffix}"
    file.write_text("half")
    changed = time.time() - days * leftovers.A_DAY
    os.utime(file, (changed, changed))
    return file


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    return int(subprocess.run(["sh", "-c", "echo $$"], capture_output=True, check=True).stdout)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot be asked for a process so simply")
def test_what_killed_processes_have_left_is_removed_and_nothing_else(tmp_path: Path, gone: int) -> None:
    removed = [
        left(tmp_path, "model.onnx", gone),
        left(tmp_path, "other", gone),
        left(tmp_path, "a.json", 1, "0" * 8, days=1.1),
    ]
    kept = [
        left(tmp_path, "model.onnx", os.getppid()),
        left(tmp_path, "b.json", gone, "0" * 8, days=0.9),
        tmp_path / ".mine",
        tmp_path / ".model.backup12.onnx",
    ]
    for file in kept[2:]:
        file.touch()
    (tmp_path / "elsewhere").touch()
    link = tmp_path / removed[0].name.replace("abcd", "wxyz")
    link.symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "model.onnx", "whole")
    assert not any(file.exists() for file in removed)
    assert all(file.exists() for file in [*kept, link, tmp_path / "elsewhere"])


def test_a_file_that_is_being_written_stays(tmp_path: Path) -> None:
    with atomic(tmp_path / "model.onnx") as temporary:
        leftovers._looked.clear()
        write_text(tmp_path / "other.txt", "text")
        assert temporary.exists()


@pytest.mark.parametrize("name", ["a" * 250 + ".json", "\u00e9" * 120 + ".csv", "a" * 240, "x.json"])
def test_a_name_as_long_as_the_system_takes_is_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]
