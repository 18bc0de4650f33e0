"""The page of a server: one HTML file that loads nothing, and the policy that lets only its own script run.

`templates/page.html.jinja` holds the markup, `page.css` the style, and the scripts are plain JavaScript without a build
step: `csv.js` and `heat_map.js` compute, `page.js` is what people touch. The page holds nothing about the models: it
asks the server for them, with the token where there is one.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass

_SCRIPTS = ("csv.js", "heat_map.js", "page.js")


@dataclass(frozen=True)
class Page:
    """The page.

    Attributes:
        html: the whole page.
        policy: its Content-Security-Policy.
    """

    html: str
    policy: str


@functools.cache
def page() -> Page:
    """Returns the page, which is the same for all servers."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("kcv.serving"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    assert templates.loader is not None

    def source(name: str) -> str:
        # Not rendered: braces are JavaScript's own there.
        return templates.loader.get_source(templates, name)[0]  # type: ignore[union-attr]

    style, script = source("page.css"), "".join(map(source, _SCRIPTS))
    html = templates.get_template("page.html.jinja").render(style=style, script=script)
    return Page(html, _policy(style, script))


def _policy(style: str, script: str) -> str:
    """Returns a policy under which nothing runs, is shown or connects but what the page itself brings or asks.

    Source: W3C, Content Security Policy Level 3.
    """
    parts = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "blob: data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
