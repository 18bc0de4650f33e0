"""From untrusted bytes to an opened picture: only known formats, bounded sizes, one line for whatever is wrong."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from PIL import (  # the plugins register themselves in Image.OPEN when they are imported
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from kcv.errors import ImageError

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""The formats that are opened; Pillow's others (EPS runs Ghostscript, ...) are not for untrusted files."""

MAX_PIXELS: Final = 178_956_970
"""More pixels than this (half a GiB as RGB) is taken for a decompression bomb; where Pillow's own error starts."""

# Broken metadata beside sound pixels is no reason to talk to stderr. Set once: `catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@contextmanager
def opened(picture: Path | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """Opens a picture for as long as the block runs; whatever a decoder raises in it becomes one line.

    Args:
        picture: a file, or the bytes of a file.
        name: what errors call the picture; by default its path.

    Raises:
        ImageError: it cannot be opened, or not be decoded in the block.
    """
    label = name or (str(picture) if isinstance(picture, Path) else "picture")
    try:
        with _stream(picture) as stream:
            yield _open(stream)
    except ImageError as error:
        raise ImageError(f"{label}: {error}") from None
    except Exception as error:  # decoders raise nearly everything (struct.error, SyntaxError, ...) on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{label}: cannot be read as a picture ({reason}).") from error


@contextmanager
def _stream(picture: Path | bytes) -> Iterator[Any]:
    if isinstance(picture, bytes):
        yield io.BytesIO(picture)
        return
    if not picture.is_file():  # also keeps a named pipe from blocking the open
        if not picture.is_dir():
            raise ImageError("no such file.")
        readable = os.access(picture, os.R_OK | os.X_OK)
        raise ImageError("is a folder, not a picture." if readable else "a folder that cannot be read.")
    with picture.open("rb") as stream:
        yield stream


def _open(stream: Any) -> Image.Image:
    """`Image.open` for `FORMATS` only, with our own size limit.

    Pillow's own check warns between half its limit and the limit; a warning in a thread can neither be caught nor
    silenced safely, so the plugins are called directly.
    """
    prefix = stream.read(16)
    if not prefix:
        raise ImageError("the file is empty.")
    for format_name in FORMATS:
        factory, accept = Image.OPEN[format_name]
        if accept is None or accept(prefix) is not True:
            continue
        stream.seek(0)
        image = factory(stream, "")
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width}x{image.height} pixels are more than the allowed {MAX_PIXELS:,}.")
        return image
    raise ImageError(f"not a picture in a known format ({', '.join(FORMATS)}).")
