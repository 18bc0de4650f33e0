"""Figures that nobody looks at: put together as ever, but neither arranged nor drawn, which is most of their time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image


def sketch() -> None:
    """Makes all figures of this process files of one pixel, for the rest of its life."""
    content = io.BytesIO()
    Image.new("RGB", (1, 1)).save(content, "PNG")
    empty = {"png": content.getvalue(), "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}

    def save(figure: Figure, path: Path, *, format: str, **options: Any) -> None:
        Path(path).write_bytes(empty[format])

    for name, instead in (
        ("savefig", save),
        ("draw_without_rendering", lambda figure: None),
        ("get_tightbbox", lambda figure, renderer: Bbox.unit()),
    ):
        setattr(Figure, name, instead)
