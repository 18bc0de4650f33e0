"""A file is whole or it is as it was."""

import csv
import os
import stat
from pathlib import Path

import pytest

from kcv.errors import OutputError
from kcv.files import atomic, write_csv, write_json, write_text


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


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1"])
def test_no_text_is_a_formula_in_a_table(text, tmp_path):
    write_csv(tmp_path / "a.csv", ["name", text], [["plain = text", -1]])
    with (tmp_path / "a.csv").open(newline="") as stream:
        header, row = csv.reader(stream)
    assert header == ["name", f"'{text}"]
    assert row == ["plain = text", "-1"]  # a number is a number
