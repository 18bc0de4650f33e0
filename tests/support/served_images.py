"""Images, forms and models for the tests of the server."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import onnx
from PIL import Image

BOUNDARY = "----a-boundary"


def with_texts(content: bytes, **texts: str) -> bytes:
    """Returns a model with other metadata."""
    graph = onnx.load_from_string(content)
    known = {prop.key: prop.value for prop in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**known, **texts})
    return bytes(graph.SerializeToString())


def photo(seed: int = 0, size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    """Returns an encoded image of smooth random colours."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(stream, format)
    return stream.getvalue()


def form(files: Iterable[tuple[str, bytes]]) -> tuple[bytes, str]:
    """Returns a form with files, and its media type."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"
