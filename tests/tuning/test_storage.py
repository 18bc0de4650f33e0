"""The database of a study, by URLs of any characters."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs the extra kcv[tune]")

from kcv.errors import UsageError
from kcv.tuning.space import Range, Space
from kcv.tuning.storage import Storage

SPACE = Space({"optim.lr": Range(1e-4, 1.0, log=True)})


def trials_in(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM trials").fetchone()
    connection.close()
    return int(count)


def test_braces_in_a_url_are_no_places_to_fill(tmp_path: Path) -> None:
    path = tmp_path / "a{b}{}{0" / "study.db"
    path.parent.mkdir()
    for begun in (1, 2):  # made, and opened again
        storage = Storage(f"sqlite:///{path}", "kcv", SPACE, higher=True, shared=True)
        storage.create({"optim.lr": 0.1}, target=1, owner="me", default=False)
        assert len(storage.trials()) == begun
        storage.close()
    assert trials_in(path) == 2


def test_a_password_with_braces_is_not_shown() -> None:
    with pytest.raises(UsageError, match="nosuchdriver") as caught:
        Storage("postgresql+nosuchdriver://kcv:zq{zz}@db/x", "kcv", SPACE, higher=True)
    assert "z" not in str(caught.value)
