"""The name of a fold in a configuration. It imports nothing heavy, because the configuration imports it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from kcv.common.parameters import AtLeast

PATTERN: Final = r"^\d{1,4}/\d{1,4}(@[0-9a-f]{16})?$"
"""The form of a fold, as `Fold` writes it."""

FEWEST_FOLDS: Final = 2
MOST_FOLDS: Final = 9_999
"""How many folds there can be: as many as `PATTERN` has digits for."""

Count: TypeAlias = Annotated[int, AtLeast(FEWEST_FOLDS, MOST_FOLDS)]
"""The number of folds, as a parameter of a verb."""


@dataclass(frozen=True)
class Fold:
    """One of several folds.

    Attributes:
        number: which of them is held out, from 1; 0 for none, as in the training of a final model.
        of: how many there are.
        digest: of the assignment of all images, see `kcv.data.folds.digest_of`; None if any assignment will do.
    """

    number: int
    of: int
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Fold:
        """Reads the form `2/5` or `2/5@0123456789abcdef`. Raises ValueError if it is not one, or 6 of 5."""
        if not re.fullmatch(PATTERN, text):
            raise ValueError(f"{text!r} is no fold")
        place, _, digest = text.partition("@")
        number, of = map(int, place.split("/"))
        if of < FEWEST_FOLDS or number > of:
            raise ValueError(f"{text!r} is no fold of two or more")
        return cls(number, of, digest or None)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}" + (f"@{self.digest}" if self.digest else "")
