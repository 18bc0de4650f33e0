"""Limits and choices in the signature of a verb, which the command line reads, and which calls from Python obey.

A verb is a typed function. The limits of a parameter are defined only in its annotations:

    top_k: Annotated[int, AtLeast(1)] | None = None
    split: Split = "test"
"""

from __future__ import annotations

import builtins
import functools
import inspect
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, ParamSpec, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from kcv.common.text import printable, shortened
from kcv.errors import UsageError, nearest

P = ParamSpec("P")
R = TypeVar("R")
Mark = TypeVar("Mark")

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
Precision: TypeAlias = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Split: TypeAlias = Literal["train", "val", "test"]

_HIGHEST = 999_999_999


@dataclass(frozen=True)
class AtLeast:
    """An integer of at least `low`, and at most `high`: nine digits, where nothing else is said."""

    low: int
    high: int = _HIGHEST

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        return f"a whole number from {self.low} to {self.high}"

    def admits(self, value: object) -> bool:
        """Returns whether a value is allowed."""
        return isinstance(value, Integral) and not isinstance(value, bool) and self.low <= int(value) <= self.high


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both inclusive."""

    low: float
    high: float

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        return f"a number from {self.low:g} to {self.high:g}"

    def admits(self, value: object) -> bool:
        """Returns whether a value is allowed; NaN is not."""
        return isinstance(value, Real) and not isinstance(value, bool) and self.low <= float(value) <= self.high


@dataclass(frozen=True)
class OneOf:
    """One of the values that `names` returns. Unlike those of a Literal, they are known only at run time."""

    names: Callable[[], tuple[str, ...]]


@dataclass(frozen=True)
class Described:
    """Any text, of which the help describes the possible values as `text` returns them at run time."""

    text: Callable[[], str]


@dataclass(frozen=True)
class PythonOnly:
    """A parameter without a flag, because its values cannot be typed."""


@dataclass(frozen=True)
class Second:
    """A parameter that may be typed without its flag, after the first one: `kcv push RUN REPO`."""


@dataclass(frozen=True)
class ListedOnStdin:
    """Paths that may come from standard input: `-` stands for a list of paths there."""


@dataclass(frozen=True)
class Hint:
    """The parts of an annotation.

    Attributes:
        types: the types of a value, without those of choices.
        literals: the values of a Literal.
        marks: the marks of this module.
        optional: whether None is allowed.
    """

    types: tuple[Any, ...]
    literals: tuple[Any, ...]
    marks: tuple[Any, ...]
    optional: bool

    @classmethod
    def of(cls, annotation: Any) -> Hint:
        """Takes an annotation apart."""
        kinds: list[Any] = []
        literals: list[Any] = []
        marks: list[Any] = []
        optional = False
        pending = [annotation]
        while pending:
            one = pending.pop(0)
            if get_origin(one) is Annotated:
                marks += one.__metadata__
                pending.append(one.__origin__)
            elif get_origin(one) in (Union, types.UnionType):
                pending += get_args(one)
            elif get_origin(one) is Literal:
                literals += get_args(one)
            elif one is type(None):
                optional = True
            else:
                kinds.append(one)
        return cls(tuple(kinds), tuple(literals), tuple(marks), optional)

    def mark(self, kind: type[Mark]) -> Mark | None:
        """Returns the mark of a kind; None if there is none."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    @property
    def listed(self) -> tuple[Any, ...] | Callable[[], tuple[str, ...]]:
        """The allowed values if they are listed, or a function that returns them."""
        one_of = self.mark(OneOf)
        return one_of.names if one_of is not None else self.literals

    @property
    def limit(self) -> AtLeast | Between | None:
        """The allowed range of a number."""
        return self.mark(AtLeast) or self.mark(Between)

    def check(self, name: str, value: object) -> None:
        """Raises UsageError if a value from Python is not allowed."""
        if value is None and self.optional:
            return
        choices = self.listed() if callable(self.listed) else self.listed
        if choices and not any(isinstance(value, type(choice)) and value == choice for choice in choices):
            raise not_allowed(name, value, ", ".join(map(str, choices)), nearest(str(value), map(str, choices)))
        if self.limit is not None and not self.limit.admits(value):
            raise not_allowed(name, value, self.limit.allowed)


def not_allowed(name: str, value: object, allowed: str, hint: str = "") -> UsageError:
    """Returns the error for a value that is not allowed, on the command line (`--name`) and in Python (`name`)."""
    return UsageError(f"{name}: received {printable(shortened(repr(value)))}, allowed: {allowed}.{hint}")


def hints_of(function: Callable[..., Any]) -> dict[str, Hint]:
    """Returns the hints of a function's parameters by name.

    A name imported only for type checkers (a model class) stands for any type: no typed value has such a type, so the
    command line does not need to know it.
    """
    function = inspect.unwrap(function)
    annotations = {name: text for name, text in function.__annotations__.items() if name != "return"}
    known = {**vars(builtins), **function.__globals__}
    written = [compile(text, function.__name__, "eval") for text in annotations.values() if isinstance(text, str)]
    unknown = {name: Any for code in written for name in code.co_names if name not in known}
    bare = types.SimpleNamespace(__annotations__=annotations)
    found = get_type_hints(bare, globalns=function.__globals__, localns=unknown, include_extras=True)
    return {name: Hint.of(annotation) for name, annotation in found.items()}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Checks the limits and choices of a function's parameters when it is called, as the command line does.

    Example:
        >>> @checked
        ... def measure(*, images: Annotated[int, AtLeast(1)]) -> int: ...
        >>> measure(images=0)
        kcv.errors.UsageError: images: received 0, allowed: a whole number from 1 to 999999999.
    """

    @functools.cache
    def limited() -> dict[str, Hint]:
        return {name: hint for name, hint in hints_of(function).items() if hint.listed or hint.limit}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for name, hint in limited().items():
            if name in given:
                hint.check(name, given[name])
        return function(*args, **kwargs)

    return call


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
