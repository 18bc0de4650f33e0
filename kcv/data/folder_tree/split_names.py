"""Which split a folder's name speaks of."""

from __future__ import annotations

import re
from typing import Final

WORDS: Final = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""What people call splits, in lower case. As Hugging Face datasets has it."""

_TOKEN: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SETS: Final = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(?:set|data|images?|imgs?|pics?)?")


def split_of(name: str) -> str | None:
    """Returns the split that a folder of this name is, in any case of its letters; None where it may be anything.

    Example:
        >>> split_of("Training"), split_of("DEV"), split_of("seg_train")
        ('train', 'val', None)
    """
    return WORDS.get(name.strip().casefold())


def split_within(name: str) -> str | None:
    """Returns the one split that a word of a name speaks of, as in `seg_train`, `test1` or `TrainImages`; else None."""
    found = {WORDS[match[1]] for token in _TOKEN.findall(name) if (match := _SETS.fullmatch(token.lower()))}
    return found.pop() if len(found) == 1 else None
