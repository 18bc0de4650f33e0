"""What the signature of a verb says beyond a type: marks and choices, which the command line reads.

A verb is a typed function. Its annotations are the one place where the limits of a parameter stand:

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
    """A whole number from `low` on."""

    low: int


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class OneOf:
    """One of what `names` returns: choices that are only known when the program runs, unlike those of a Literal."""

    names: Callable[[], tuple[str, ...]]


@dataclass(frozen=True)
class PythonOnly:
    """A parameter that is no flag, because nothing that can be typed is a value of it."""


@dataclass(frozen=True)
class ListedOnStdin:
    """Paths that may come from standard input: there `-` stands for a list of them."""


def renamed(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function be called by the old names of its parameters, with a DeprecationWarning.

    Args:
        **new_names: the new name by each old one.

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
