from __future__ import annotations

import inspect

import pytest

from kcv.common.parameters import renamed


@renamed(pictures="images")
def measure(*, images: int = 1) -> int:
    """Measures."""
    return images


def test_an_old_name_of_a_parameter_is_accepted_with_a_warning_that_says_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match=r"measure\(pictures=\) is now measure\(images=\)") as caught:
        assert measure(pictures=3) == 3  # type: ignore[call-arg]
    assert caught[0].filename == __file__
    assert measure(images=2) == 2
    assert measure() == 1
    assert list(inspect.signature(measure).parameters) == ["images"]


def test_both_names_at_once_are_an_error() -> None:
    with pytest.raises(TypeError, match="both 'images' and its old name, 'pictures'"):
        measure(images=1, pictures=1)  # type: ignore[call-arg]
