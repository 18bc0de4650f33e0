"""Hostile images, data sets, configurations and names: one line each, nothing run, nothing obeyed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from warm import PATIENCE

from kcv import predict
from kcv.cli import main
from kcv.common.files import escape_formula
from kcv.common.text import printable
from kcv.config import Config
from kcv.data.loading import open_source
from kcv.errors import ConfigError, DataError, ImageError
from kcv.images import decode, load

if TYPE_CHECKING:
    from kcv.tasks.export import Export

ROOT = Path(__file__).resolve().parents[2]


def encoded(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00" + bytes(6) + b"," + bytes(9) + b"\x02\x00;"


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def text_bomb() -> bytes:
    image = encoded("PNG")
    return image[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))) + image[33:]


JPEG = encoded("JPEG")
IMAGES: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\xff",
    "a PNG of 10 gigapixels": png(100_000, 100_000),
    "a PNG of 2^31 by 2^31": png(2**31 - 1, 2**31 - 1),
    "a PNG without pixels": png(0, 10),
    "a PNG with 80 MB of comment": text_bomb(),
    "a GIF of 4 gigapixels": gif(65535, 65535),
    "a BMP of 10 gigapixels": bmp(100_000, 100_000),
    "a BMP of negative width": bmp(-40, 30),
    "a PPM of 10 gigapixels": b"P6 100000 100000 255\n",
    "a PPM of words": b"P6 many more 255\n" + bytes(100),
    "a TIFF that points into itself": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0100, 4, 1, 40) + b"\x08\0\0\0",
    "a WebP of a length that lies": b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(30),
    "half a JPEG": JPEG[: len(JPEG) // 2],
    "a JPEG of markers": b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5000,
    "half a PNG": encoded("PNG")[:200],
    "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch canary) (w) file\n",
    "a PDF": b"%PDF-1.7\n1 0 obj <<>> endobj\n",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a program": b"\x7fELF" + bytes(200),
    "a zip archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_hostile_image_is_one_line(name: str, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(IMAGES[name])
    began = time.thread_time()
    with pytest.raises(ImageError) as caught:
        load(path, 32, "squash")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert time.thread_time() - began < 2  # of the processor, which a busy machine does not change


@pytest.mark.parametrize(
    "content",
    [encoded("GIF") + b"<script>alert(1)</script>", JPEG + b"PK\x03\x04" + bytes(60), encoded("PNG") + b"#!/bin/sh\n"],
    ids=["GIF and script", "JPEG and zip", "PNG and shell"],
)
def test_a_polyglot_is_the_image_that_it_begins_as(content: bytes) -> None:
    assert decode(content).shape == (30, 40, 3)


def test_an_animation_of_many_frames_costs_its_first_one(tmp_path: Path) -> None:
    frame = Image.new("RGB", (16, 16), "red")
    others = [Image.new("RGB", (16, 16), (i % 255, 0, 0)) for i in range(500)]
    frame.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert load(tmp_path / "a.gif", 16, "squash").shape == (16, 16, 3)


def test_metadata_is_not_believed() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "<script>" * 100)
    assert decode(encoded("PNG", pnginfo=info)).shape == (30, 40, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes and devices")
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder"])
def test_what_is_no_file_does_not_block(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(ImageError):
        load(path, 32, "squash")


CONFIGS: dict[str, tuple[bytes, str]] = {
    "a tag that calls": (b"data: !!python/object/apply:os.system ['touch canary']", "not valid YAML"),
    "a tag that imports": (b"data: !!python/name:os.system", "not valid YAML"),
    "a tag of its own": (b"data: !evil {a: 1}", "not valid YAML"),
    "aliases within aliases": (
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghi"),
        "more than 10000 values",
    ),
    "a value that holds itself": (b"data: &a [*a]", "more than 10000 values"),
    "a key twice": (b"seed: 1\nseed: 2", "duplicate key"),
    "brackets": (b"[" * 50_000, "nested too deeply"),
    "too large": (b"# " + b"x" * 1_100_000, "too large"),
    "bytes": (bytes(range(256)), "not text"),
    "a list": (b"- seed: 1", "holds a list"),
    "a number of 5000 digits": (b"seed: " + b"9" * 5000, "seed|not valid YAML"),
    "a key that is a list": (b"? [a]\n: 1", "not valid YAML"),
    "a name that climbs": (b"name: ../../etc", "name: received"),
    "a merge of a list": (b"<<: [1, 2]", "not valid YAML"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_configuration_is_refused(name: str, tmp_path: Path, canary: Path) -> None:
    content, message = CONFIGS[name]
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Config.load(tmp_path / "c.yaml")
    assert len(str(caught.value)) < 10_000


def parquet(path: Path, **columns: pa.Array) -> bytes:
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


PARQUETS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.touch(),
    "the magic alone": lambda path: path.write_bytes(b"PAR1PAR1"),
    "a footer of a length that lies": lambda path: path.write_bytes(b"PAR1" + struct.pack("<I", 2**31) + b"PAR1"),
    "no columns": lambda path: parquet(path, x=pa.array([1])),
    "images that are numbers": lambda path: parquet(path, image=pa.array([1]), label=pa.array([0])),
    "images that are null": lambda path: parquet(path, image=pa.array([None], pa.binary()), label=pa.array([0])),
    "labels that are null": lambda path: parquet(path, image=pa.array([b"x"]), label=pa.array([None], pa.int64())),
    "labels that are floats": lambda path: parquet(path, image=pa.array([b"x"]), label=pa.array([0.5])),
    "class names with control characters": lambda path: parquet(
        path, image=pa.array([b"x", b"y"]), label=pa.array(["a\x1b[2J", "b"])
    ),
    "half a file": lambda path: path.write_bytes(
        parquet(path, image=pa.array([bytes(5000)] * 9), label=pa.array([0] * 9))[:600]
    ),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes")
@pytest.mark.parametrize("name", PARQUETS)
def test_hostile_parquet_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    PARQUETS[name](path)
    with pytest.raises(DataError) as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


NAMES = ["a b.png", "a\nb.png", "a\tb.png", "\x1b[31mred.png", "\u202egnp.exe.png", "$(touch canary).png", "`id`.png",
         "<img src=x onerror=alert(1)>.png", "=1+1.png", "@SUM(1).png", "-rf.png", "猫.png", "a'b\"c.png"]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_of_images_are_shown_and_never_obeyed(
    exported: Export,
    tmp_path: Path,
    canary: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(encoded("PNG") if name != NAMES[1] else b"")
    output = tmp_path / "rows.csv"
    assert main(["predict", str(folder), f"--model={exported.path}", "--top_k=2"]) == 2
    out = capsys.readouterr().out
    assert len(out.splitlines()) == len(NAMES)
    assert "\x1b" not in out and "\u202e" not in out and r"a\nb.png" in out and r"\x1b[31mred.png" in out
    main(["predict", str(folder), f"--model={exported.path}", f"--output={output}"])
    with output.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["path"] for row in rows) == sorted(str(folder / name) for name in NAMES)
    monkeypatch.chdir(folder)
    for row in predict(["./" + name for name in NAMES], exported.path, output=tmp_path / "rows.jsonl"):
        assert row["path"]
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in lines] == NAMES


def test_cells_of_a_table_are_no_formulas() -> None:
    assert [escape_formula(text) for text in ("=1+1", "+1+1", "-x", "@x", "\tx", "plain", "", "-1", 1.5, -2, None)] == [
        "'=1+1", "'+1+1", "'-x", "'@x", "'\tx", "plain", "", "-1", 1.5, -2, None,
    ]  # fmt: skip


def test_plain_shows_what_a_terminal_would_obey() -> None:
    assert printable("a\r\n\x1b]0;x\x07\u2028\u202e猫 é \U0001f468\u200d\U0001f469") == (
        "a\\r\\n\\x1b]0;x\\x07\\u2028\\u202e猫 é \U0001f468\u200d\U0001f469"
    )


def test_class_folders_with_control_characters_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog\x1b[2J"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(encoded("PNG"))
    with pytest.raises(DataError, match=r"class names 'dog\\x1b\[2J' hold control characters"):
        open_source(str(tmp_path / "data"))


def command(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kcv", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE, **options,  # type: ignore[call-overload]
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_without_room_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = command("models", stdout=full)
    assert (done.returncode, done.stderr) == (
        2,
        "kcv: error: cannot write to standard output: No space left on device\n",
    )


@pytest.mark.skipif(os.name == "nt", reason="closes a descriptor")
def test_a_closed_input_is_one_line(exported: Export) -> None:
    done = command("predict", "-", f"--model={exported.path}", stdout=subprocess.PIPE, preexec_fn=lambda: os.close(0))
    assert (done.returncode, done.stderr) == (2, "kcv: error: predict -: standard input is closed.\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_leaves_no_temporary_file(exported: Export, images: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted((images / "train").rglob("*.png"))]
    listed = "\n".join(paths * 20)
    output = tmp_path / "out" / "rows.csv"
    running = subprocess.Popen(
        [sys.executable, "-m", "kcv", "predict", "-", f"--model={exported.path}", f"--output={output}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdin is not None
    running.stdin.write(listed)
    running.stdin.flush()  # and stays open: it waits for more
    for _ in range(15000):
        if output.parent.is_dir() and list(output.parent.iterdir()):
            break
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=PATIENCE) == 143
    running.stdin.close()
    assert list(output.parent.iterdir()) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="whoever may read everything finds nothing unreadable"
)
def test_a_folder_that_cannot_be_read_is_a_row(exported: Export, images: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "locked").mkdir(parents=True)
    shutil.copy(next((images / "test").rglob("*.png")), tmp_path / "a" / "1.png")
    (tmp_path / "a" / "locked").chmod(0)
    rows = list(predict([tmp_path / "a"], exported.path, recursive=True))
    assert [bool(row["error"]) for row in rows] == [False, True]
