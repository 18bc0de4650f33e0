"""Variants of one test: in the fast set a few stand for all, and the others are in the complete one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def variants(
    values: Iterable[Any], *, fast: int | Collection[Any], mark: pytest.MarkDecorator = pytest.mark.full
) -> list[Any]:
    """Returns the parameters of a test, all but some of them marked.

    Args:
        values: the parameters; a tuple holds those of a test with several.
        fast: those without a mark, or how many of the first.
        mark: what the others get.
    """
    listed = list(values)
    if isinstance(fast, int):
        fast = listed[:fast]
    assert fast and all(value in listed for value in fast)
    return [value if value in fast else _marked(value, mark) for value in listed]


def _marked(value: Any, mark: pytest.MarkDecorator) -> Any:
    return pytest.param(*value, marks=mark) if isinstance(value, tuple) else pytest.param(value, marks=mark)
