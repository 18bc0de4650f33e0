"""The name of a model of the user's own: a function in a file or in a module, as `model.name` has it.

Only names are handled here; nothing is imported. `kcv.training.own_function` loads and calls the function.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kcv.errors import nearest
from kcv.models import registry

AUTO: Final = "auto"
"""The `model.name` that leaves the choice of the network, and of what suits it, to kcv."""

FORMS: Final = "FILE.py:FUNCTION or MODULE:FUNCTION"
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_LONGEST: Final = 1_000  # characters; a name is part of every model file


@dataclass(frozen=True)
class OwnName:
    """Where a model of the user's own comes from.

    Attributes:
        place: the path of a Python file, or the dotted name of a module.
        function: the name of the function in it.
        is_file: whether `place` is a path.

    Example:
        >>> OwnName.find("nets/small.py:build")
        OwnName(place='nets/small.py', function='build', is_file=True)
    """

    place: str
    function: str
    is_file: bool

    def __str__(self) -> str:
        return f"{self.place}:{self.function}"

    @classmethod
    def find(cls, name: object) -> OwnName | None:
        """Returns the parts of a name; None if it has another form."""
        if not isinstance(name, str) or len(name) > _LONGEST or not name.isprintable():
            return None
        place, _, function = name.rpartition(":")
        is_file = place.endswith(".py")
        if not function.isidentifier() or not (is_file or _MODULE.fullmatch(place)):
            return None
        return cls(place, function, is_file)


def network_or_own(name: str) -> str:
    """Returns a value of `model.name` unchanged: `auto`, the name of a network, or that of a function.

    Raises:
        ValueError: it names neither a network nor a function.
    """
    if name != AUTO and registry.find(name) is None and OwnName.find(name) is None:
        raise ValueError(f"is no network{nearest(name, registry.names())}")
    return name
