"""What comes from strangers is shown on a terminal and not obeyed; kcv's own styles are."""

from __future__ import annotations

import io
import json
import sys

import pytest

from kcv.cli import console, terminal

HOSTILE = "a\x1b[31mred\x1b]0;title\x07\x9b2J\r\x08\x7f\u202eb\u2028c\udc80"
SHOWN = r"a\x1b[31mred\x1b]0;title\x07\x9b2J\r\x08\x7f\u202eb\u2028c\udc80"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_a_result_is_shown_and_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    terminal.show(console.pairs({"model": HOSTILE, "classes": "a\nb", "best": console.paint("c", "bold")}))
    assert screen.getvalue() == (
        f"  \033[2mmodel  \033[0m  {SHOWN}\n  \033[2mclasses\033[0m  a\\nb\n  \033[2mbest   \033[0m  \033[1mc\033[0m\n"
    )


def test_complaints_and_bugs_are_shown_and_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    terminal.complain(HOSTILE)
    assert screen.getvalue() == f"\033[31mkcv: error:\033[0m {SHOWN}\n"
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        terminal.bug()
    assert screen.getvalue().count("\033") == 2
    assert screen.getvalue().endswith(f"RuntimeError: {SHOWN}\n")


def test_a_message_that_quotes_a_file_at_length_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    terminal.complain(f"begins {'x' * 10**6} ends")
    terminal.warn(f"begins {'x' * 10**6} ends")
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert len(line) < 6000
        assert "begins xxx" in line
        assert line.endswith("xxx ends")


def test_json_keeps_every_character_and_holds_none_that_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    terminal.json_of({"name": HOSTILE, "cat": "猫"})
    text = screen.getvalue()
    assert text.count("\n") == 4
    assert text.replace("\n", "").isprintable()
    assert "猫" in text
    assert json.loads(text) == {"name": HOSTILE, "cat": "猫"}
