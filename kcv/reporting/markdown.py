"""Text and tables in GitHub's Markdown that show any text as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from kcv.common.text import printable

_MARKUP = re.compile(r"([\\`*_\[\]<>|#&~!$])")
_LINK = re.compile(r"(\w)(:(?=//)|\.(?<=www\.)|@)")
"""Text that GitHub turns into links and mentions without any markup."""


def literal(value: Any) -> str:
    """Returns one line of text that Markdown shows verbatim: without markup, entities, formulas or links."""
    line = printable(" ".join(str(value).split()))
    return _LINK.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", line))


def code(value: Any) -> str:
    """Returns one line of text as code, also in a cell of a table."""
    line = printable(" ".join(str(value).split())).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; its cells are Markdown already, see `literal` and `code`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
