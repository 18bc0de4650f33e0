"""Predictions of images in a bucket, and their rows as an object: all of them, each once, whatever the line does."""

from __future__ import annotations

import csv
import io
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from counting import Brightness
from s3_server import S3
from variants import variants
from warm import Child, WarmPython

import kcv
from kcv import predict
from kcv.cli import main
from kcv.common.launch import Launch
from kcv.errors import DataError, ImageError, OutputError, UsageError
from kcv.images.urls import StoredImage, found
from kcv.inference.shard_file import state_of
from kcv.inference.stored_output import FOLDER, StoredOutput
from kcv.training.run_folder import Run


def outputs(cache: Path) -> list[str]:
    folder = cache / FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def without_place(rows: list[dict[str, Any]], root: str) -> list[dict[str, Any]]:
    return [{**row, "path": row["path"].removeprefix(root)} for row in rows]


def test_a_bucket_is_classified_like_the_folder(s3: S3, bucket: str, few: Path) -> None:
    ours = list(predict(f"s3://{bucket}/photos/", Brightness(), recursive=True, batch_size=3))
    theirs = list(predict(few, Brightness(), recursive=True, batch_size=3))
    assert without_place(ours, f"s3://{bucket}/photos") == without_place(theirs, str(few))
    # Only what lies directly there, a pattern, one object, and several places in the order of their names.
    flat = f"s3://{bucket}/photos/test/left"
    names = [
        str(image) for image in found([flat, f"s3://{bucket}/photos/*/top/000.png", f"{flat}/001.png"], recursive=False)
    ]
    assert [name.removeprefix(f"s3://{bucket}/photos/") for name in names] == [
        "test/left/000.png", "test/left/001.png", "test/top/000.png", "train/top/000.png", "val/top/000.png",
        "test/left/001.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("s3://{}/photos", "no images there, only below further prefixes; --recursive takes those"),
        ("s3://{}/parquet/", "no images there"),
        ("s3://{}/nothing", "no images there"),
        ("s3://no-such-bucket/x", "there is no such bucket"),
    ],
)
def test_places_without_images_are_told(s3: S3, bucket: str, place: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        predict(place.format(bucket), Brightness())


def test_an_image_that_may_be_listed_but_not_read_is_not_missing(s3: S3, bucket: str) -> None:
    s3.fault = lambda request: "403" if request.startswith("HEAD") else None
    with pytest.raises(DataError, match=r"top/000.png: may not be read: these credentials have no right to it"):
        predict(f"s3://{bucket}/photos/test/top/000.png", Brightness())


@pytest.mark.parametrize("suffix", variants([".csv", ".parquet", ".jsonl"], fast=[".csv"]))
def test_rows_become_an_object_when_all_are_there(s3: S3, bucket: str, few: Path, tmp_path: Path, suffix: str) -> None:
    own = s3.bucket()
    tries: Counter[str] = Counter()

    def fault(request: str) -> str | None:
        tries[request] += 1
        # Of an upload whose beginning was not told, nobody knows; it is empty and invisible.
        kind = ("500", "cut", "503", "500" if "uploads" in request else "lost")[len(tries) % 4]
        return kind if tries[request] % 2 else None

    s3.fault = fault
    before: list[list[str]] = []
    written = []
    for row in predict(
        f"s3://{bucket}/photos/", Brightness(), recursive=True, batch_size=4, output=f"s3://{own}/out/rows{suffix}"
    ):
        written.append(row)
        before.append(s3.keys(own))
    s3.heal()
    assert not any(before)  # no half of an object at any time
    assert s3.keys(own) == [f"out/rows{suffix}"]
    assert (s3.uploads(own), outputs(tmp_path / "cache")) == (0, [])
    list(predict(few, Brightness(), recursive=True, batch_size=4, output=tmp_path / f"rows{suffix}"))
    ours, theirs = s3.get(own, f"out/rows{suffix}"), (tmp_path / f"rows{suffix}").read_bytes()
    if suffix == ".parquet":
        tables = [pq.read_table(io.BytesIO(content)).drop(["path"]) for content in (ours, theirs)]
        assert tables[0].equals(tables[1])
    else:
        assert ours.decode().replace(f"s3://{bucket}/photos", "X") == theirs.decode().replace(str(few), "X")
    assert len({row["path"] for row in written}) == len(written) == 24


@pytest.mark.parametrize(
    ("output", "told", "kind"),
    [
        ("s3://no-such-bucket/x.csv", "s3://no-such-bucket: there is no such bucket", OutputError),
        ("s3://{}/x.txt", "allowed: a name that ends in .csv", UsageError),
        ("s3://{}/", "allowed: a name that ends in .csv", UsageError),
        ("s3://me:s3cr3t@{}/x.csv", "holds a user, a password", OutputError),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    s3: S3, bucket: str, output: str, told: str, kind: type[Exception]
) -> None:
    model = Brightness()
    with pytest.raises(kind, match=told) as caught:
        predict(f"s3://{bucket}/photos/", model, recursive=True, output=output.format(bucket))
    assert "s3cr3t" not in str(caught.value)
    assert not any("/photos/" in request for request in s3.asked)


@pytest.mark.parametrize("verb", ["predict", "embed"])
def test_rows_are_not_kept_in_a_folder_that_is_removed(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "file" / "cache"))  # which root cannot write to either
    own = s3.bucket()
    told = rf"cannot write to {tmp_path}/file/cache/outputs: .*; KCV_CACHE_DIR names another folder$"
    with pytest.raises(OutputError, match=told):
        getattr(kcv, verb)(f"s3://{bucket}/photos/", tmp_path / "no model", output=f"s3://{own}/rows.parquet")
    assert s3.asked == []


def test_rows_that_cannot_be_sent_stay_on_disk(s3: S3, bucket: str, tmp_path: Path) -> None:
    own = s3.bucket()
    rows = predict(f"s3://{bucket}/photos/", Brightness(), recursive=True, output=f"s3://{own}/rows.csv")
    next(rows)
    s3.fault = lambda request: "503" if request.startswith("PUT") else None
    with pytest.raises(
        OutputError, match=r"written after 6 tries \(SlowDown: .*\. The rows are complete in "
    ) as caught:
        list(rows)
    assert s3.keys(own) == []
    file = Path(str(caught.value).rpartition("complete in ")[2].partition(": copy")[0])
    assert len(rows_of(file.read_bytes())) == 24


def test_bad_objects_are_rows_and_a_lost_store_is_an_error(s3: S3, bucket: str) -> None:
    own = s3.bucket()
    for number in range(3):
        s3.put(own, f"{number}.png", s3.get(bucket, "photos/test/top/000.png"))
    s3.put(own, "broken.png", b"no image")

    def changed(request: str) -> str | None:
        if request.startswith("GET") and request.endswith("/1.png"):
            s3.delete(own, "1.png")
        return "403" if request.endswith("/2.png") else None

    s3.fault = changed
    rows = list(predict(f"s3://{own}", Brightness()))
    errors = [row["error"] for row in rows]
    assert errors[0] == ""
    assert "1.png: there is no such object" in errors[1]
    assert "2.png: may not be read: these credentials" in errors[2]
    assert "not an image in a known format" in errors[3]
    # A store that does not answer must not become a million rows with errors.
    s3.fault = lambda request: "503" if "/0.png" in request else None
    with pytest.raises(DataError, match=r"0.png: cannot be read after 6 tries"):
        list(predict(f"s3://{own}", Brightness()))


def test_what_was_cut_short_goes_on_and_computes_changed_objects_again(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kcv.inference.shards.ROWS", 4)
    own = s3.bucket()
    for number in range(10):
        s3.put(own, f"{number}.png", s3.get(bucket, f"photos/train/top/{number % 4:03}.png"))
    options = {"output": f"s3://{own}/rows/out.csv", "resume": True}
    with pytest.raises(MemoryError):
        list(predict(f"s3://{own}/", Brightness(last=8), **options))
    (parts,) = outputs(tmp_path / "cache")
    assert parts.endswith("-out.csv.parts")
    with pytest.raises(OutputError, match="go on with --resume"):
        predict(f"s3://{own}/", Brightness(), output=options["output"], resume=False) and None
        StoredOutput.open(f"s3://{own}/rows/out.csv")
        raise OutputError("go on with --resume")
    s3.put(own, "5.png", s3.get(bucket, "photos/train/left/001.png"))
    model = Brightness()
    s3.fault = lambda request: "cut" if len(s3.asked) % 3 == 0 else None
    rows = list(predict(f"s3://{own}/", model, **options))
    assert [row["path"] for row in rows] == [f"s3://{own}/{number}.png" for number in range(10)]
    assert model.seen == 6  # the part of the object that changed, and the one that was missing
    s3.heal()
    assert [row["path"] for row in rows_of(s3.get(own, "rows/out.csv"))] == [row["path"] for row in rows]
    assert outputs(tmp_path / "cache") == []


def test_the_state_of_an_object_is_its_size_and_version(s3: S3, bucket: str) -> None:
    own = s3.bucket()
    states = []
    for content in (b"one", b"two", b"two and more", b"one"):
        s3.put(own, "0.png", content)
        (image,) = found([f"s3://{own}/0.png"], recursive=False)
        assert isinstance(image, StoredImage)
        states.append(state_of([image], "p"))
    assert len(set(states)) == 3
    assert states[0] == states[3]


def test_processes_on_several_machines_need_a_folder_in_common(s3: S3, bucket: str) -> None:
    with pytest.raises(UsageError, match="processes on several machines share the parts"):
        StoredOutput.open(f"s3://{bucket}/x.csv", launch=Launch(0, 4, 0, 2))


def test_only_images_that_are_not_too_large_are_fetched(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (image,) = found([f"s3://{bucket}/photos/test/top/000.png"], recursive=False)
    monkeypatch.setattr("kcv.images.urls.MOST_STORED_BYTES", 10)
    assert isinstance(image, StoredImage)
    with pytest.raises(ImageError, match="10 are allowed"):
        image.read()


def test_on_the_command_line(s3: S3, bucket: str, trained_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    own = s3.bucket()
    words = [f"s3://{bucket}/photos/test/", "--recursive", f"--model={trained_run.directory}"]
    assert main(["predict", *words, f"--output=s3://{own}/out.parquet"]) == 0
    assert f"rows written to s3://{own}/out.parquet" in capsys.readouterr().err
    assert pq.read_table(io.BytesIO(s3.get(own, "out.parquet"))).num_rows == 6
    assert main(["embed", *words, f"--output=s3://{own}/vectors.parquet"]) == 0
    assert pq.read_table(io.BytesIO(s3.get(own, "vectors.parquet"))).num_rows == 6
    capsys.readouterr()
    for command in (
        ["predict", "s3://no-such-bucket/", f"--model={trained_run.directory}"],
        ["predict", *words, "--output=s3://no-such-bucket/out.parquet"],
        ["embed", *words, "--output=s3://no-such-bucket/out.parquet"],
        ["explain", f"s3://{bucket}/photos/test/top/000.png", f"--model={trained_run.directory}"],
    ):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1


def _prediction(bucket: str, own: str, run: Run) -> list[str]:
    return [
        "predict", f"s3://{bucket}/photos/", "--recursive", f"--model={run.model_path}", "--batch_size=2",
        f"--output=s3://{own}/rows.csv", "--resume",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_killed_at_any_moment_nothing_is_lost_and_nothing_twice(
    s3: S3, bucket: str, few: Path, trained_run: Run, start: Callable[..., Child], tmp_path: Path
) -> None:
    own = s3.bucket()
    kills = 0
    while True:
        tries: Counter[str] = Counter()
        s3.fault = lambda request, tries=tries: _rarely(request, tries)  # type: ignore[misc]
        running, seen = start(*_prediction(bucket, own, trained_run), merge=True), len(s3.asked)
        while running.poll(0.01) is None and (kills > 3 or len(s3.asked) < seen + 10 * (kills + 1)):
            assert own not in s3.keys(own)
        if running.poll() is not None:
            break
        running.send_signal(signal.SIGKILL)
        running.wait()
        kills += 1
        assert s3.keys(own) == []
    assert running.returncode == 0, running.communicate()[0]
    assert kills
    s3.heal()
    paths = [row["path"] for row in rows_of(s3.get(own, "rows.csv"))]
    assert paths == [str(image) for image in found([f"s3://{bucket}/photos/"], recursive=True)]
    assert outputs(tmp_path / "cache") == []


def _rarely(request: str, tries: Counter[str]) -> str | None:
    tries[request] += 1
    return ("500", "cut", None)[len(tries) % 3] if tries[request] == 1 else None


@pytest.mark.long
def test_several_processes_share_a_bucket(
    s3: S3, bucket: str, trained_run: Run, warm: WarmPython, tmp_path: Path
) -> None:
    own = s3.bucket()
    done = warm.together("kcv", _prediction(bucket, own, trained_run), folder=tmp_path)
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert len(rows_of(s3.get(own, "rows.csv"))) == 24
    assert kcv.__version__
