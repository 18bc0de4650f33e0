"""Rows in files: names of any kind read back, and nothing is left where the rows did not come to an end."""

import csv
import json
import os

import pytest

from kcv.common.rows import open_rows
from kcv.errors import OutputError, UsageError

COLUMNS = ["path", "label", "confidence", "error"]
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


def _write(path, *names):
    with open_rows(path, COLUMNS) as writer:
        for name in names:
            writer.write(
                {"path": name, "label": "cat", "confidence": 1 / 3, "error": "", "probabilities": {"cat": 1 / 3}}
            )


@pytest.mark.parametrize("name", ["a.png", 'quote " comma ,\nline.png', "猫.png", "=1+1.png", NOT_UTF8])
def test_names_of_any_kind_read_back_from_text(tmp_path, name):
    _write(tmp_path / "rows.csv", name)
    with (tmp_path / "rows.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        shown = f"'{name}" if name.startswith("=") else name  # no formula: a spreadsheet would compute it
        assert list(csv.DictReader(stream)) == [{"path": shown, "label": "cat", "confidence": str(1 / 3), "error": ""}]
    _write(tmp_path / "rows.jsonl", name)
    (line,) = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["path"] == name


def test_parquet_marks_what_is_not_utf8_and_writes_many_row_groups(tmp_path):
    from pyarrow import parquet

    names = [f"{i}.png" for i in range(5000)]
    _write(tmp_path / "rows.parquet", NOT_UTF8, "猫.png", *names)
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.column_names == COLUMNS
    assert table["path"].to_pylist() == ["caf\ufffd.png", "猫.png", *names]
    assert set(table["confidence"].to_pylist()) == {1 / 3}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_no_file_is_left_where_writing_ends_early(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    with pytest.raises(KeyboardInterrupt), open_rows(path, COLUMNS) as writer:
        writer.write(dict.fromkeys(COLUMNS, "x") | {"confidence": 0.5})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_of_no_known_format_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"Did you mean '\.parquet'"), open_rows(tmp_path / "rows.parket", COLUMNS):
        pass


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), open_rows(tmp_path / "file" / "rows.csv", COLUMNS):
        pass
