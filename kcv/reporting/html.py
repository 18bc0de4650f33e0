"""Builds HTML from plain values, and escapes everything that comes from a file or a user."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from kcv.reporting.material import Plot

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def text(value: Any) -> str:
    """Returns a value as escaped text."""
    return html.escape(str(value), quote=True)


def section(title: str, *parts: str) -> str:
    """Returns a card with a heading, or an empty string if the card would be empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>" if body else ""


def terms(values: Mapping[str, Any]) -> str:
    """Returns a list of names and values, without values that are None."""
    rows = [f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in values.items() if value is not None]
    return "<dl>" + "".join(rows) + "</dl>" if rows else ""


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, bars: Sequence[int] = (), words: bool = False
) -> str:
    """Returns a table; None is shown as a dash.

    Args:
        header: column names.
        rows: cell values.
        bars: columns whose values, 0-1, are also shown as bars.
        words: whether the table holds mainly text and is left-aligned.
    """
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(_cell(value, i in bars) for i, value in enumerate(row))}</tr>\n" for row in rows)
    kind = ' class="words"' if words else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _cell(value: Any, bar: bool) -> str:
    shown = "–" if value is None else f"{value:.4f}" if isinstance(value, float) else text(value)
    if bar and isinstance(value, float):
        return f'<td class="bar" style="--part: {100 * value:.1f}%">{shown}</td>'
    return f"<td>{shown}</td>"


def image(plot: Plot | None, alt: str, caption: str = "") -> str:
    """Returns an image embedded in the page, or an empty string for None.

    It is an `img` element, not inline SVG, so its content cannot run scripts or load anything.
    """
    if plot is None:
        return ""
    data = base64.b64encode(plot.content).decode("ascii")
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{text(alt)}" src="data:{_TYPES[plot.suffix]};base64,{data}">{below}</figure>'
