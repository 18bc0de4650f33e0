"""One style for all plots: white background, thin grey axes, colours distinguishable with any colour vision.

Matplotlib is imported inside the functions and used without pyplot: no window, no global figure, thread-safe.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.common.files import atomic
from kcv.reporting.plots import library
from kcv.reporting.plots.scripts import MISSING, show_all

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
    matplotlib = library.load()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    installed = set(get_font_names())
    # Any, because matplotlib checks the keys at run time and its types do not cover them.
    style: Any = {
        **library.defaults(),
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


def epochs_below(axes: Axes) -> None:
    """Labels the horizontal axis as epochs, with ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def marker_of(epochs: int) -> str:
    """Returns the marker of a curve: a dot per epoch if they are few, otherwise none."""
    return "o" if epochs <= _MOST_DOTS else ""


def short(name: str) -> str:
    """Returns a name as one line of at most 18 characters."""
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
