"""PredictionShards of a prediction: only those are kept that are as they were written, of images as they are now."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from counting import Brightness
from PIL import Image

from kcv import errors, predict
from kcv.common.launch import Launch
from kcv.inference.prediction import Job
from kcv.inference.shard_file import is_sound, read_part, state_of, write_part
from kcv.inference.shards import PredictionShards

COLUMNS = ["path", "label", "confidence", "error"]


def drawn(path: Path, level: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (level,) * 3).save(path)
    return path


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr("kcv.inference.shards.ROWS", 4)
    return [drawn(tmp_path / "few" / f"{number:02d}.png", number * 20) for number in range(10)]


@pytest.fixture
def cut_short(few: list[Path], tmp_path: Path) -> Path:
    """The folder of parts of a prediction of which 8 of 10 images, two parts, are done."""
    with pytest.raises(MemoryError):
        list(predict(few, Brightness(last=8), output=tmp_path / "rows.csv", resume=True))
    return tmp_path / "rows.csv.parts"


def _rows_of(files: list[Path]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, file in enumerate(files):
        if number == 1:
            values = dict.fromkeys(COLUMNS[1:3])
            rows.append({"path": str(file), **values, "error": f"{file}: no such file.", "probabilities": None})
        else:
            scores = {"dark": 0.25, "bright": 0.75}
            rows.append(
                {"path": str(file), "label": "bright", "confidence": 0.75, "error": "", "probabilities": scores}
            )
    return rows


def _mutated(content: bytes, chance: random.Random) -> bytes:
    data, lines = bytearray(content), content.splitlines(keepends=True)
    kind = chance.randrange(7)
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    if kind == 0:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(data)
    if kind == 1:
        return content[: chance.randrange(len(content))]
    if kind == 2:
        return content + content[: chance.randrange(1, len(content))]
    if kind == 3:
        del lines[first]
    elif kind == 4:
        lines.insert(second, lines[first])
    elif kind == 5:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        start = chance.randrange(len(data))
        data[start : start + chance.randrange(1, 20)] = chance.randbytes(chance.randrange(20))
        return bytes(data)
    return b"".join(lines)


def test_no_changed_part_is_taken_for_a_finished_one(few: list[Path], tmp_path: Path) -> None:
    part = tmp_path / "part"
    write_part(part, [_rows_of(few)[:6], _rows_of(few)[6:]], state_of(few, "this"))
    content, chance, changed = part.read_bytes(), random.Random(0), 0
    assert is_sound(part, few, COLUMNS, "this")
    assert list(read_part(part, len(few))) == _rows_of(few)
    while changed < 1000:
        mutated = _mutated(content, chance)
        if mutated != content:
            changed += 1
            part.write_bytes(mutated)
            assert not is_sound(part, few, COLUMNS, "this"), mutated


def test_a_part_is_of_one_prediction_and_its_images(few: list[Path], tmp_path: Path) -> None:
    part = tmp_path / "part"
    write_part(part, [_rows_of(few)], state_of(few, "this"))
    assert not is_sound(part, few, COLUMNS, "other")
    assert not is_sound(part, few[:9], COLUMNS, "this")
    assert not is_sound(part, few[::-1], COLUMNS, "this")
    assert not is_sound(part, few, [*COLUMNS, "label_2"], "this")
    assert not is_sound(tmp_path / "none", few, COLUMNS, "this")
    assert not is_sound(tmp_path, few, COLUMNS, "this")


@pytest.mark.parametrize(
    "row",
    [
        [], "text", {}, {"path": "x"}, {"label": None}, {"confidence": "1"}, {"probabilities": [1]}, {"more": 1},
        {"error": None}, {"error": "odd"}, {"probabilities": {"dark": "1"}}, {"path": "elsewhere.png"},
    ],
)  # fmt: skip
def test_rows_that_are_none_are_not_taken_whatever_their_checksum(few: list[Path], tmp_path: Path, row: object) -> None:
    part = tmp_path / "part"
    rows = _rows_of(few)
    rows[0] = {**rows[0], **row} if isinstance(row, dict) and row else row  # type: ignore[assignment]
    write_part(part, [rows], state_of(few, "this"))
    assert not is_sound(part, few, COLUMNS, "this")


def test_a_folder_of_that_name_that_is_not_of_a_prediction_is_refused(few: list[Path], tmp_path: Path) -> None:
    own = tmp_path / "rows.csv.parts" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(errors.OutputError, match=r"rows\.csv\.parts holds notes\.txt, which is no part"):
        list(predict(few, Brightness(), output=tmp_path / "rows.csv", resume=True))
    assert [path.name for path in own.parent.iterdir()] == ["notes.txt"]
    assert own.read_text() == "mine"


def test_a_file_put_among_the_parts_stays(few: list[Path], cut_short: Path, tmp_path: Path) -> None:
    (cut_short / "part-of-my-notes.jsonl").write_text("mine")
    assert len(list(predict(few, Brightness(), output=tmp_path / "rows.csv", resume=True))) == 10
    assert [path.name for path in cut_short.iterdir()] == ["part-of-my-notes.jsonl"]


DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[:100],
    "a digit changed": lambda content: content.replace(b"0", b"1", 1),
    "no JSON": lambda content: b"\xff\xfe" * 50,
    "a list a line": lambda content: b"[]\n" * 4,
    "nested": lambda content: b"[" * 100_000 + b"\n",
    "without seal, as earlier versions wrote": lambda content: b"".join(content.splitlines(keepends=True)[:-2]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_done_again(few: list[Path], cut_short: Path, tmp_path: Path, damage: str) -> None:
    part = cut_short / "part-00000000.jsonl"
    part.write_bytes(DAMAGES[damage](part.read_bytes()))
    model = Brightness()
    rows = list(predict(few, model, output=tmp_path / "rows.csv", resume=True))
    assert model.seen == 6  # one of two parts was kept
    assert rows == list(predict(few, Brightness(), output=tmp_path / "uncut.csv"))
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "uncut.csv").read_bytes()
    assert not cut_short.exists()


@pytest.mark.parametrize("content", [b"[]", b"", b"[" * 100_000, b'{"images"', b"\xff\0", b"null"])
def test_a_damaged_record_loses_no_part(few: list[Path], cut_short: Path, tmp_path: Path, content: bytes) -> None:
    (cut_short / "prediction.json").write_bytes(content)
    with pytest.raises(errors.OutputError, match="go on with --resume"):
        job = Job(Brightness(), 1, 2, None)
        PredictionShards(job, tmp_path / "rows.csv", lambda: iter(few), Launch(0, 2, 0, 2), "Brightness").rows(
            resume=False
        )
    model = Brightness()
    rows = list(predict(few, model, output=tmp_path / "rows.csv", resume=True))
    assert model.seen == 2  # parts say themselves what they are of
    assert len(rows) == 10


def test_a_record_that_is_gone_does_not_let_in_parts_of_another_prediction(
    few: list[Path], cut_short: Path, tmp_path: Path
) -> None:
    (cut_short / "prediction.json").unlink()
    model = Brightness()
    assert len(list(predict(few, model, output=tmp_path / "rows.csv", resume=True, top_k=2))) == 10
    assert model.seen == 10


def test_an_image_that_was_replaced_is_read_again(few: list[Path], cut_short: Path, tmp_path: Path) -> None:
    before = few[1].stat()
    drawn(few[1], 255)
    os.utime(few[1], ns=(before.st_atime_ns, before.st_mtime_ns))  # its time does not show it
    few[6].write_bytes(b"no image any more")
    rows = list(predict(few, Brightness(), output=tmp_path / "rows.csv", resume=True))
    assert rows[1]["confidence"] == 1.0
    assert rows[6]["error"]


def test_parts_hold_names_that_are_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.inference.shards.ROWS", 2)
    files = [drawn(tmp_path / "odd" / os.fsdecode(b"caf\xe9.png"), 9), drawn(tmp_path / "odd" / "a\nb.png", 9)]
    write_part(tmp_path / "part", [_rows_of(files)], state_of(files, ""))
    assert is_sound(tmp_path / "part", files, COLUMNS, "")
    assert json.loads((tmp_path / "part").read_text().splitlines()[0])["path"] == str(files[0])
