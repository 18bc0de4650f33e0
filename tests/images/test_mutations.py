"""Sound images with one piece of their structure removed, doubled, made huge or emptied: pixels, or one line."""

from __future__ import annotations

import io
import random
import time
from typing import Any

import numpy as np
import pytest
from mutated_images import jpeg_mutants, png_mutants, tiff_mutants
from PIL import Image

from kcv import images
from kcv.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(PIXELS).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(stream, kind, **({"exif": exif} if kind in ("PNG", "JPEG") else {}), **options)
    return stream.getvalue()


def check(content: bytes, what: str) -> None:
    """Reads an image in each of the ways that there are."""
    began = time.thread_time()
    for read in (images.decode, images.dimensions, lambda data: images.load(data, 8, "crop")):
        try:
            read(content)
        except ImageError as error:
            assert "\n" not in str(error), what
    assert time.thread_time() - began < 5, what  # of the processor: nothing hangs


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16", "LA"])
def test_chunks_of_a_png(mode: str) -> None:
    if mode == "I;16":
        stream = io.BytesIO()
        Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200).save(stream, "PNG")
        content = stream.getvalue()
    else:
        content = encoded("PNG", mode, icc_profile=bytes(100), **({"transparency": 3} if mode == "P" else {}))
    for name, mutant in png_mutants(content):
        check(mutant, name)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
def test_segments_of_a_jpeg(options: dict[str, Any]) -> None:
    for name, mutant in jpeg_mutants(encoded("JPEG", **options)):
        check(mutant, name)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_tags_of_a_tiff(compression: str) -> None:
    for name, mutant in tiff_mutants(encoded("TIFF", compression=compression)):
        check(mutant, name)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "PPM", "TIFF", "PNG", "JPEG"])
def test_random_changes(kind: str) -> None:
    content, chance = encoded(kind), random.Random(kind)
    for number in range(150):
        mutated = bytearray(content)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(min(len(mutated), 200 if number % 2 else len(mutated)))
            mutated[place] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        check(bytes(mutated[: chance.randrange(20, len(mutated))] if number % 5 == 0 else mutated), f"{kind} {number}")
