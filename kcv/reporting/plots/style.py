"""One style for all plots: white background, thin grey axes, colours distinguishable with any colour vision.

Matplotlib is imported inside the functions and used without pyplot: no window, no global figure, thread-safe. The
`matplotlibrc` of the working folder, which may be untrusted, is not read. Scripts that the default fonts lack are drawn
with any installed font that has them, or a log line says that there is none.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from kcv.common.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""The Okabe-Ito colours, strongest first; yellow is replaced with olive because it is too pale for lines on white."""

INK, GREY, PALE = "#333333", "#8a8a8a", "#d9d9d9"
_STYLE: dict[str, Any] = {
    "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.titlepad": 10, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.edgecolor": GREY, "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#ececec", "grid.linewidth": 0.8,
    "xtick.major.width": 0.8, "ytick.major.width": 0.8, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "lines.linewidth": 1.8, "legend.frameon": False, "legend.fontsize": 9, "savefig.dpi": 150,
    "text.parse_math": False,  # a class may be called "$5 notes"
    "svg.fonttype": "none", "svg.hashsalt": "kcv",  # searchable text; the same plot gives the same file
}  # fmt: skip
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "Hiragino Sans", "Arial Unicode MS")
_LONGEST_NAME = 18
_MOST_DOTS = 15
_MARGIN = 0.15  # inches around the content
_QUICK_PNG = {"compress_level": 2}  # a third of the default's time, files a fifth larger


@contextmanager
def new_figure(size: tuple[float, float], path: Path) -> Iterator[Figure]:
    """Yields an empty figure in kcv's style, and writes it atomically as PNG and SVG.

    Args:
        size: width and height in inches.
        path: the PNG file; the SVG file has the same name with the suffix `.svg`.

    Raises:
        OutputError: a file cannot be written.
    """
    matplotlib = load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    installed = set(get_font_names())
    # Any, because matplotlib checks the keys at run time and its types do not cover them.
    style: Any = {
        **defaults(),
        **_STYLE,
        "font.family": [font for font in _FONTS if font in installed] or ["sans-serif"],
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
        canvas = FigureCanvasAgg(figure)
        yield figure
        show_all(figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=MISSING)  # already logged
            # Layout takes most of the time. Done once here, it is not repeated for each file and bounding box: savefig
            # would compute it four times.
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
            renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
            box = figure.get_tightbbox(renderer).padded(_MARGIN)
            # Without metadata that differs between runs.
            for kind, target, nothing in (("png", path, "Software"), ("svg", path.with_suffix(".svg"), "Date")):
                how: Any = {"pil_kwargs": _QUICK_PNG} if kind == "png" else {}
                with atomic(target) as temporary:
                    figure.savefig(temporary, format=kind, bbox_inches=box, metadata={nothing: None}, **how)


def epochs_below(axes: Axes, label: str = "epoch") -> None:
    """Labels the horizontal axis as epochs, or as something else that is counted, with ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def marker_of(epochs: int) -> str:
    """Returns the marker of a curve: a dot per epoch if they are few, otherwise none."""
    return "o" if epochs <= _MOST_DOTS else ""


def short(name: str) -> str:
    """Returns a name as one line of at most 18 characters."""
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


_loading = threading.Lock()
_OF_THE_FOLDER = "matplotlibrc"
"""The path in the working folder that matplotlib searches first; it has no setting to disable this."""
_NOT_OF_PLOTS = ("backend", "interactive", "toolbar", "timezone", "webagg", "tk.", "macosx")
"""Settings of windows, which kcv does not use; some of them cannot be queried from matplotlib."""


def load_matplotlib() -> ModuleType:
    """Returns matplotlib, importing it before any of its modules unless it is already imported."""
    with _loading:
        if "matplotlib" not in sys.modules and os.path.lexists(_OF_THE_FOLDER):
            exists = os.path.exists
            with mock.patch("os.path.exists", lambda path: path != _OF_THE_FOLDER and exists(path)):
                import matplotlib
        import matplotlib
    return matplotlib


def defaults() -> dict[str, Any]:
    """Returns matplotlib's default settings, so that plots do not depend on the user's configuration."""
    own = load_matplotlib().rcParamsDefault
    return {name: value for name, value in dict.items(own) if not name.startswith(_NOT_OF_PLOTS)}


_log = logging.getLogger(__name__)

MISSING: Final = "Glyph .* missing from font"
"""Pattern of matplotlib's warning that a character is drawn as a box."""

_MOST_TOLD = 20  # characters
_told: set[str] = set()


def show_all(figure: Figure) -> None:
    """Sets fonts that cover all characters of a figure's texts; logs once which characters no installed font has."""
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    wanted = {character for text in texts for character in text.get_text() if ord(character) > 0xFF}
    wanted = {character for character in wanted if character.isprintable()} - {"\u2212", "\u2026"}
    if not wanted:
        return
    lacking = wanted - _characters(tuple(texts[0].get_fontfamily()))
    if not lacking:
        return
    more = []
    for family, path in _installed():
        if covered := lacking & _of_file(path):
            more.append(family)
            lacking -= covered
        if not lacking:
            break
    if more:
        for text in texts:
            text.set_fontfamily([*text.get_fontfamily(), *more])
    if new := sorted(lacking - _told):
        _told.update(new)
        shown = "".join(new[:_MOST_TOLD]) + ("..." if len(new) > _MOST_TOLD else "")
        _log.warning("plots show boxes for %s: no installed font has them; install one, like Noto Sans CJK", shown)


@cache
def _characters(families: tuple[str, ...]) -> frozenset[str]:
    """Returns the characters covered by fonts, given by name."""
    return frozenset().union(*(_of_file(path) for family, path in _installed() if family in families))


@cache
def _installed() -> list[tuple[str, str]]:
    """Returns name and file of each installed font that is upright and of regular weight, sorted by name."""
    from matplotlib.font_manager import fontManager

    fonts = {(font.name, font.fname) for font in fontManager.ttflist if font.style == "normal"}
    return sorted((name, path) for name, path in fonts if "LastResort" not in path and "Last Resort" not in name)


@cache
def _of_file(path: str) -> frozenset[str]:
    """Returns the characters of a font; empty if it cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
