"""Annotations and choices in the signature of a verb, which the command line reads.

A verb is a typed function. The limits of a parameter are defined only in its annotations:

    top_k: Annotated[int, AtLeast(1)] | None = None
    split: Split = "test"
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
Precision: TypeAlias = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Split: TypeAlias = Literal["train", "val", "test"]


@dataclass(frozen=True)
class AtLeast:
    """An integer of at least `low`."""

    low: int


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both inclusive."""

    low: float
    high: float


@dataclass(frozen=True)
class OneOf:
    """One of the values that `names` returns. Unlike those of a Literal, they are known only at run time."""

    names: Callable[[], tuple[str, ...]]


@dataclass(frozen=True)
class PythonOnly:
    """A parameter without a flag, because its values cannot be typed."""


@dataclass(frozen=True)
class ListedOnStdin:
    """Paths that may come from standard input: `-` stands for a list of paths there."""


def renamed(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accepts the old names of a function's parameters, with a DeprecationWarning.

    Args:
        **new_names: new name by old name.

    Example:
        >>> @renamed(pictures="images")
        ... def measure(*, images: int) -> int: ...
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in new_names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise TypeError(f"{function.__name__}() got both {new!r} and its old name, {old!r}")
                    warnings.warn(
                        f"{function.__name__}({old}=) is now {function.__name__}({new}=)",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
