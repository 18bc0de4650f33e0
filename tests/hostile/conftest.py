"""What the tests of hostile files share: a canary that nothing may wake, and a model to spoil."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kcv.training import Run


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that code in a hostile file would make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code in a file was run"


@pytest.fixture(scope="session")
def members(trained_run: Run) -> dict[str, bytes]:
    """The members of a sound model file."""
    with zipfile.ZipFile(trained_run.model_path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
