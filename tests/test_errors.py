"""What an error says, in one line."""

from __future__ import annotations

from kcv.errors import causes, first_line, one_line


def test_the_first_line_is_short_and_never_empty() -> None:
    assert first_line(ValueError("\n\n it is so\nand more")) == "it is so"
    assert first_line(ValueError(" \n")) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 150
    assert first_line(ValueError("x" * 1000), 10) == "x" * 10


def test_all_lines_are_made_one() -> None:
    assert one_line(ValueError("it is\n  so\tand more\n")) == "it is so and more"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_the_causes_of_an_error_come_once_each_also_from_a_circle() -> None:
    outer, middle, inner = ValueError("outer"), KeyError("middle"), OSError("inner")
    outer.__cause__, middle.__context__ = middle, inner
    assert list(causes(outer)) == [outer, middle, inner]
    inner.__context__ = outer
    assert list(causes(outer)) == [outer, middle, inner]
