from __future__ import annotations

import inspect
import math
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from kcv.common.parameters import AtLeast, Between, checked, renamed
from kcv.errors import UsageError


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


@checked
def take(
    count: Annotated[int, AtLeast(3)],
    part: Annotated[float, Between(0, 1)] | None = None,
    kind: Literal["a", "b"] = "a",
    more: object = None,
) -> tuple[object, ...]:
    return count, part, kind, more


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((2,), {}, "count: received 2, allowed: a whole number from 3 to 999999999."),
        ((10**9,), {}, "count: received 1000000000, allowed: a whole number from 3 to 999999999."),
        ((3.0,), {}, "count: received 3.0, allowed: a whole number from 3 to 999999999."),
        ((True,), {}, "count: received True, allowed: a whole number from 3 to 999999999."),
        ((None,), {}, "count: received None, allowed: a whole number from 3 to 999999999."),
        ((), {"count": "3"}, "count: received '3', allowed: a whole number from 3 to 999999999."),
        ((3, 1.5), {}, "part: received 1.5, allowed: a number from 0 to 1."),
        ((3, math.nan), {}, "part: received nan, allowed: a number from 0 to 1."),
        ((3,), {"part": "half"}, "part: received 'half', allowed: a number from 0 to 1."),
        ((3, None, "c"), {}, "kind: received 'c', allowed: a, b."),
        ((3,), {"kind": None}, "kind: received None, allowed: a, b."),
        ((3,), {"kind": np.eye(2)}, "kind: received array([[1., 0.],\\n       [0., 1.]]), allowed: a, b."),
    ],
)
def test_a_value_out_of_its_limits_is_refused_in_one_line(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        take(*args, **kwargs)
    assert str(caught.value) == message


def test_a_whole_number_may_have_an_upper_limit_of_its_own() -> None:
    @checked
    def fold(images: Annotated[int, AtLeast(2, 9)]) -> int:
        return images

    assert (fold(2), fold(9)) == (2, 9)
    for wrong in (1, 10):
        with pytest.raises(UsageError, match=f"images: received {wrong}, allowed: a whole number from 2 to 9"):
            fold(wrong)


def test_allowed_values_reach_the_function_as_they_are() -> None:
    assert take(3) == (3, None, "a", None)
    assert take(np.int64(4), 1, "b", more=[]) == (4, 1, "b", [])
    assert take(count=999_999_999, part=None) == (999_999_999, None, "a", None)


def test_a_wrong_call_of_a_checked_function_stays_pythons_own_error() -> None:
    for call in (lambda: take(), lambda: take(3, other=1), lambda: take(3, 0.5, "a", None, 1)):  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"take\(\)"):
            call()
