"""Traces take seconds: their tests share what they can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kept_graphs import keeping_operators


@pytest.fixture(scope="session", autouse=True)
def _operators() -> Iterator[None]:
    with keeping_operators():
        yield
