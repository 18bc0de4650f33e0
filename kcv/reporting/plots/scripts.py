"""Font fallback for scripts the default fonts lack: uses any installed font, or logs that there is none."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
