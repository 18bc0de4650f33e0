"""Random bytes for all that reads files of others: an answer or one line, never anything else.

A few seconds in the fast set, always the same bytes, six times as many in the complete one; KCV_FUZZ_SECONDS=600 goes
on for so long, with new ones, and prints how many there were.
"""

from __future__ import annotations

import functools
import io
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from kcv.artifact import read_info
from kcv.config import Config
from kcv.errors import ArtifactError, ConfigError, ImageError
from kcv.images import dimensions
from kcv.images import load as load_image
from kcv.inference.onnx_model import OnnxModel
from kcv.inference.opening import load

if TYPE_CHECKING:
    from kcv.tasks.export import Export

Fuzz = Callable[..., None]
SECONDS = float(os.environ.get("KCV_FUZZ_SECONDS", "0"))
READERS = 5
MOST = 100 * 2**20  # bytes of a decoded image; larger ones are only slower to look at


class Content(bytes):
    """Bytes that are told by their length: megabytes of a failing example say nothing."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """Returns a function that checks random contents."""
    return functools.partial(_fuzz, 6 if request.config.getoption("--full") else 1)


def _fuzz(
    times: int, check: Callable[[bytes], object], content: st.SearchStrategy[bytes], *, examples: int, name: str
) -> None:
    """Checks `examples` always the same contents, or new ones for this reader's share of the time."""
    examples *= times
    count = 0

    def run(number: int) -> None:
        @seed(number)
        @settings(
            max_examples=examples, derandomize=not SECONDS, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
        )  # fmt: skip
        @given(content.map(Content))
        def one(data: bytes) -> None:
            nonlocal count
            count += 1
            check(data)

        one()

    end = time.monotonic() + SECONDS / READERS
    run(0)
    number = 1
    while time.monotonic() < end:
        run(number)
        number += 1
    print(f"{name}: {count:,} cases")


def mutated(*originals: bytes) -> st.SearchStrategy[bytes]:
    """Returns sound contents with some bytes changed, cut out, doubled or put in."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(originals)))
        for _ in range(draw(st.integers(1, 8))):
            # Headers are at the beginning, directories at the end: places there are likelier than elsewhere.
            near = draw(st.sampled_from(["begin", "end", "any"]))
            span = len(data) if near == "any" else min(len(data), 300)
            place = draw(st.integers(0, max(span - 1, 0))) + (max(len(data) - span, 0) if near == "end" else 0)
            what = draw(st.sampled_from(["flip", "set", "cut", "double", "insert", "number"]))
            if what == "flip" and data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            elif what == "set" and data:
                data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
            elif what == "cut":
                del data[place : place + draw(st.integers(1, 200))]
            elif what == "double":
                data[place:place] = data[place : place + draw(st.integers(1, 200))]
            elif what == "insert":
                data[place:place] = draw(st.binary(max_size=20))
            else:
                data[place : place + 4] = draw(st.sampled_from([2**31 - 1, 2**32 - 1, 2**24])).to_bytes(4, "little")
        return bytes(data)

    return build()


def images() -> list[bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    found = []
    for kind, mode, options in (
        ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}), ("JPEG", "L", {}),
        ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "I;16", {}), ("GIF", "P", {}),
        ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}), ("BMP", "RGB", {}), ("BMP", "P", {}),
        ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "F", {}), ("PPM", "RGB", {}),
    ):  # fmt: skip
        stream = io.BytesIO()
        source = image.convert("L").convert("I") if mode == "I;16" else image
        source.convert(mode).save(stream, kind, **options)
        found.append(stream.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    return [*found, stream.getvalue()]


def test_the_image_decoder(fuzz: Fuzz) -> None:
    def check(data: bytes) -> None:
        try:
            height, width = dimensions(data)
            if height * width * 3 > MOST:
                return
            pixels = load_image(data, 16, "crop")
        except ImageError as error:
            assert "\n" not in str(error)
        else:
            assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8

    fuzz(check, mutated(*images()) | st.binary(max_size=200), examples=200, name="images")


def test_the_artifact_reader(fuzz: Fuzz, members: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    whole = stream.getvalue()

    def inside(name: str) -> st.SearchStrategy[bytes]:
        def pack(data: bytes) -> bytes:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for key, content in members.items():
                    archive.writestr(key, data if key == name else content)
            return packed.getvalue()

        return mutated(members[name]).map(pack)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        for use in (read_info, lambda path: load(path, device="cpu")):
            try:
                use(path)
            except ArtifactError as error:
                assert "\n" not in str(error)

    contents = mutated(whole) | inside("kcv.json") | inside("config.json") | inside("model.weights.h5")
    fuzz(check, contents, examples=10, name="model files")


def test_the_configuration_reader(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    sound = Config().to_yaml().encode()
    pieces = [
        "data:",
        "seed:",
        "optim:\n  lr:",
        " ",
        "\n",
        "- ",
        "&a ",
        "*a",
        "[",
        "]",
        "{",
        "}",
        "!!",
        "1e400",
        "-.inf",
    ]
    pieces += ["null", "'", '"', "#", "|", ">", "<<:", "? ", "\t", "\x00", "é", "0x", "train:\n  epochs:"]
    words = st.lists(st.sampled_from(pieces), max_size=40).map(lambda parts: "".join(parts).encode())

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            config = Config.load(path)
        except ConfigError as error:
            assert str(error)
        else:
            assert isinstance(config, Config)

    fuzz(check, mutated(sound) | words | st.binary(max_size=300), examples=80, name="configurations")


@pytest.mark.parametrize("part", ["description", "graph"])
def test_the_onnx_reader(part: str, fuzz: Fuzz, exported: Export, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = exported.path.read_bytes()

    def check(data: bytes) -> None:
        begin, middle = int.from_bytes(data[:8], "little"), data[8:]
        path.write_bytes(whole[:begin] + middle + whole[begin + size :])
        try:
            OnnxModel(path, device="cpu")
        except ArtifactError as error:
            assert "\n" not in str(error)

    # The description stands at the end, the graph before it. Hypothesis keeps what it makes: only the changed piece is.
    size = 3000 if part == "description" else 4000
    last = len(whole) - size

    def piece(begin: int) -> st.SearchStrategy[bytes]:
        return mutated(whole[begin : begin + size]).map(lambda middle: begin.to_bytes(8, "little") + middle)

    near = st.sampled_from([0, last]) | st.integers(0, last)  # weights are the larger part, and the duller
    contents = piece(last) if part == "description" else near.flatmap(piece)
    fuzz(check, contents, examples=7, name=f"ONNX files, {part}")
