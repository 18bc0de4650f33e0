"""The scalars of YAML 1.2, in files and as typed on the command line.

PyYAML follows YAML 1.1, where `1e-3` is text, `no` is a boolean and `12:30` is the number 750. YAML 1.2's core schema
(https://yaml.org/spec/1.2.2/#103-core-schema) has none of these traps. This module does not import PyYAML, which help
and flags do not need.
"""

from __future__ import annotations

import re
from typing import Any

MOST_DIGITS = 40
"""The most digits of an integer."""

FLOAT = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
INT = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
NULL = re.compile(r"^(?:~|null|Null|NULL|)$")


def parse_scalar(text: str) -> Any:
    """Parses text as one plain YAML 1.2 scalar: None, a bool, an int, a float, or otherwise the text itself."""
    text = text.strip()
    if NULL.match(text):
        return None
    if BOOL.match(text):
        return text.lower() == "true"
    if INT.match(text) and len(text) <= MOST_DIGITS:
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if FLOAT.match(text):
        return to_float(text)
    return text


def to_float(text: str) -> float:
    """Returns the number that a text which matches `FLOAT` stands for."""
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
