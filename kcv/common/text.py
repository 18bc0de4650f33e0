"""Names that come from files and folders of others: what in them a terminal would obey instead of showing it."""

from __future__ import annotations

import os
import unicodedata

_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")
"""Unicode's control characters, separators of lines and paragraphs, and bytes that are not UTF-8."""

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They turn the direction of writing, with which a name can look like another."""


def is_plain(name: str) -> bool:
    """Whether all characters of a name are there to be seen."""
    return name.isprintable() or not any(map(_obeyed, name))


def plain(text: object) -> str:
    """Returns a text with escapes in place of what a terminal would obey, a line feed among it."""
    text = str(text)
    if text.isprintable():  # as good as all texts; then nothing in it is obeyed
        return text
    return "".join(char.encode("unicode_escape").decode() if _obeyed(char) else char for char in text)


def look(name: str) -> str:
    """Returns what is left of a name without case, spaces at its ends, invisible characters and forms of Unicode.

    Names for which it is the same are taken for one by people, and some also by disks.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(char for char in folded if unicodedata.category(char) != "Cf").split())


def shortened(text: object, most: int = 200) -> str:
    """Returns a text for an error message: of a longer one the beginning and the end."""
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[: most // 2]}...{whole[-most // 2 :]}"


def _obeyed(char: str) -> bool:
    return unicodedata.category(char) in _CATEGORIES or char in _DIRECTIONS


def cut_to_bytes(name: str, most: int) -> str:
    """Returns as much of a name as `most` bytes of a file name hold; file systems count bytes, not characters."""
    kept = 0
    for number, character in enumerate(name):
        kept += len(os.fsencode(character))
        if kept > most:
            return name[:number]
    return name
