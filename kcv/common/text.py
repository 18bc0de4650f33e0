"""Makes names from untrusted files safe to print: escapes characters that a terminal would interpret."""

from __future__ import annotations

import os
import unicodedata

_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")
"""Unicode categories of control characters, line and paragraph separators, and bytes that are not UTF-8."""

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the writing direction, with which one name can look like another."""


def is_printable(name: str) -> bool:
    """Returns whether a name contains no characters that a terminal would interpret."""
    return name.isprintable() or not any(map(_is_interpreted, name))


def printable(text: object) -> str:
    """Escapes the characters in a text that a terminal would interpret, including line feeds."""
    text = str(text)
    if text.isprintable():  # a fast path for nearly all texts
        return text
    return "".join(char.encode("unicode_escape").decode() if _is_interpreted(char) else char for char in text)


def look(name: str) -> str:
    """Returns a name without differences in case, outer spaces, invisible characters and Unicode forms.

    Users, and some file systems, cannot distinguish names with the same result.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(char for char in folded if unicodedata.category(char) != "Cf").split())


def shortened(text: object, most: int = 200) -> str:
    """Returns a text for an error message; keeps only the beginning and the end of a long one."""
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[: most // 2]}...{whole[-most // 2 :]}"


def setting(value: object) -> str:
    """Returns a value of a configuration for people: numbers with four digits, and `null` as in YAML."""
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_interpreted(char: str) -> bool:
    return unicodedata.category(char) in _CATEGORIES or char in _DIRECTIONS


def cut_to_bytes(name: str, most: int) -> str:
    """Returns the beginning of a name that fits into `most` bytes; file systems count bytes, not characters."""
    kept = 0
    for number, character in enumerate(name):
        kept += len(os.fsencode(character))
        if kept > most:
            return name[:number]
    return name
