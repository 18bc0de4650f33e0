"""Scripts that the usual fonts lack."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from kcv.reporting.plots import style

RARE = "\U00013000"  # a hieroglyph


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(style, "_told", set())
    kept = style._characters
    yield
    kept.cache_clear()


def figure(*texts: str) -> Figure:
    made = Figure()
    for text in texts:
        made.text(0, 0, text)
    return made


@pytest.mark.full
def test_what_no_font_has_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(style, "_of_file", lambda path: frozenset(map(chr, range(0x10000))))
    style._characters.cache_clear()
    with caplog.at_level(logging.WARNING):
        style.show_all(figure(f"cat {RARE}", "dog"))
        style.show_all(figure(RARE))
    assert [record.message for record in caplog.records] == [
        f"plots show boxes for {RARE}: no installed font has them; install one, like Noto Sans CJK"
    ]


def test_usual_names_are_no_matter(caplog: pytest.LogCaptureFixture) -> None:
    style.show_all(figure("Käse", "\u0436\u0443\u043a", "long\u2026", "a\nb"))
    assert caplog.records == []


def test_any_font_that_has_the_characters_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(style, "_installed", lambda: [("Other", "other.ttf"), ("Rare", "rare.ttf")])
    monkeypatch.setattr(style, "_characters", lambda families: frozenset("abc"))
    monkeypatch.setattr(style, "_of_file", lambda path: frozenset(RARE if path == "rare.ttf" else "abc"))
    drawn = figure(RARE)
    with matplotlib.rc_context():
        style.show_all(drawn)
    assert drawn.texts[0].get_fontfamily()[-1] == "Rare"
    assert caplog.records == []


def test_a_font_that_cannot_be_read_has_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert style._of_file(str(tmp_path / "broken.ttf")) == frozenset()
