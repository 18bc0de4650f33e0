"""Heat maps over images: which parts support a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kcv.common.files import atomic
from kcv.reporting.plots import style
from kcv.reporting.plots.style import GREY, INK, PALE, new_figure, short

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

MOST_IN_GRID = 36
"""Maximum number of images in a grid; more would be too small to see."""

_LEAST_SIDE = 256  # px of a drawn image: one of 32 px would be too small to see
_MARGIN, _GAP, _LINE = 16, 12, 22  # px around and between the panels, and per line of text
_STRONGEST = 0.75  # opacity of the overlay at the hottest place
_COLUMN, _ROW = 2.7, 1.6  # inches per column (an image and its overlay) and per row of a grid
_NOTHING = "flat map: nothing stands out"


def save_overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32], path: Path) -> Path:
    """Writes an image overlaid with its heat map, as PNG of at least 256 px; a flat map leaves the image unchanged.

    Args:
        pixels: uint8 [size, size, 3] RGB, as the model receives them.
        heat: float32 [size, size] in 0-1.
        path: the PNG file, overwritten if it exists.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    return _write(Image.fromarray(overlay(pixels, heat)), path)


def save_side_by_side(
    pixels: NDArray[np.uint8], heat: NDArray[np.float32], path: Path, *, title: str, note: str = ""
) -> Path:
    """Writes image, heat map and overlay side by side under a title, as PNG.

    Args:
        pixels: uint8 [size, size, 3] RGB, as the model receives them.
        heat: float32 [size, size] in 0-1.
        path: the PNG file, overwritten if it exists.
        title: the title, such as the class and its probability.
        note: smaller text to the right of the title.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    factor = _factor(pixels.shape[0])
    panels = [_enlarged(pixels, factor), _map_alone(heat, factor), overlay(pixels, heat)]
    side = panels[0].shape[0]
    top = _MARGIN + _LINE + _GAP // 2
    canvas = Image.new("RGB", (2 * _MARGIN + 3 * side + 2 * _GAP, top + side + _MARGIN), "white")
    for number, panel in enumerate(panels):
        canvas.paste(Image.fromarray(panel), (_MARGIN + number * (side + _GAP), top))
    draw = ImageDraw.Draw(canvas)
    room = 3 * side + 2 * _GAP
    big, small = _font(15, bold=True), _font(12)
    draw.text((_MARGIN, _MARGIN), title, INK, big, anchor="lt")
    if note and draw.textlength(title, big) + draw.textlength(note, small) + _GAP <= room:
        draw.text((_MARGIN + room, _MARGIN + 2), note, GREY, small, anchor="rt")
    if not heat.any():
        middle = _MARGIN + side + _GAP + side // 2
        draw.text((middle, top + side // 2), _NOTHING, INK, small, anchor="mm")
    return _write(canvas, path)


def save_gradcam_grid(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    heatmaps: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    titles: Sequence[str],
    path: str | Path,
    *,
    note: str = "",
) -> Path:
    """Draws a grid of images, each next to its overlay with the heat map; writes PNG and SVG.

    Args:
        images: uint8 [n, size, size, 3] RGB, as the model receives them; at least one, the first 36 are shown.
        heatmaps: float32 [n, size, size] in 0-1, from `kcv.gradcam`.
        titles: one line per image, such as the class and its probability.
        path: the PNG file, overwritten if it exists.
        note: a heading for the whole grid, such as the method.

    Returns:
        `path`.

    Raises:
        OutputError: a file cannot be written.

    Example:
        >>> heatmaps = kcv.gradcam("model.keras", images)
        >>> kcv.save_gradcam_grid(images, heatmaps, titles, "grid.png", note="Grad-CAM")
    """
    path = Path(path)
    shown = list(zip(images, heatmaps, titles, strict=True))[:MOST_IN_GRID]
    columns = min(len(shown), max(1, math.ceil(math.sqrt(len(shown) / 1.6))))
    rows = math.ceil(len(shown) / columns)
    with new_figure((_COLUMN * columns + 0.7, _ROW * rows + (0.4 if note else 0.0)), path) as figure:
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, (pixels, heat, title) in zip(panels.flat, shown, strict=False):
            factor = _factor(pixels.shape[0])
            gap = np.full((pixels.shape[0] * factor, 6 * factor * pixels.shape[0] // 256 or 1, 3), 255, np.uint8)
            axes.imshow(np.concatenate([_enlarged(pixels, factor), gap, overlay(pixels, heat)], axis=1))
            axes.set_axis_off()
            axes.set_title(title, fontsize=9, pad=4)
            if not heat.any():
                axes.text(0.75, 0.06, "flat map", transform=axes.transAxes, fontsize=7, ha="center", color="white",
                          bbox={"facecolor": INK, "edgecolor": "none", "pad": 2, "alpha": 0.75})  # fmt: skip
        from matplotlib.cm import ScalarMappable

        # The same length for any number of rows, at the upper right.
        bar = figure.colorbar(ScalarMappable(cmap=_colours()), ax=panels, ticks=[0, 1], fraction=0.04, pad=0.01,
                              aspect=12, shrink=min(1.0, 1.2 / (_ROW * rows)), anchor=(0.0, 1.0))  # fmt: skip
        bar.ax.set_yticklabels(["least", "most"], fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        if note:
            figure.suptitle(note, x=0.02, ha="left", fontsize=10, color=GREY)
    return path


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Overlays a heat map on an image: the hotter, the less of the image is visible; where it is 0, all of it is.

    Args:
        pixels: uint8 [size, size, 3] RGB.
        heat: float32 [size, size] in 0-1.

    Returns:
        uint8 [side, side, 3], enlarged by an integer factor to at least 256 px.
    """
    factor = _factor(pixels.shape[0])
    hot = _smooth(heat, factor)
    alpha = (_STRONGEST * hot)[..., None]
    mixed = (1 - alpha) * _enlarged(pixels, factor) + alpha * _coloured(hot)
    return np.rint(mixed).astype(np.uint8)


def title_of(name: str, probability: float) -> str:
    """Returns a class and its probability as a title."""
    return f"{short(name)} {100 * probability:.1f}%"


def _map_alone(heat: NDArray[np.float32], factor: int) -> NDArray[np.uint8]:
    if heat.any():
        return _coloured(_smooth(heat, factor))
    side = heat.shape[0] * factor
    return np.array(Image.new("RGB", (side, side), PALE))  # not a colour of the map, which would look like a result


def _factor(side: int) -> int:
    return max(1, math.ceil(_LEAST_SIDE / side))


def _enlarged(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Enlarges pixel by pixel without smoothing, to show the image exactly as the model receives it."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _smooth(heat: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    side = heat.shape[0] * factor
    resized = Image.fromarray(np.asarray(heat, np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def _colours() -> Colormap:
    # Perceptually uniform, and readable with any colour vision.
    colours: Colormap = style.load_matplotlib().colormaps["inferno"]
    return colours


def _coloured(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    rgba: NDArray[Any] = _colours()(heat, bytes=True)
    return rgba[..., :3]


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns the font of the plots, which is shipped with matplotlib."""
    style.load_matplotlib()
    from matplotlib.font_manager import FontProperties, findfont

    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")), size)


def _write(image: Image.Image, path: Path) -> Path:
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")
    return path
