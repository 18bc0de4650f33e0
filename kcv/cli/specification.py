"""The specification of a verb, derived from its function: flags and checks from the signature, help from the docstring.

There is no other definition. The rules:

- The first parameter is typed without a flag if it can be passed by position; it may be given several times if its type
  is a collection. All other parameters are flags; those without a default are required.
- `bool` is a switch, `Literal` and `OneOf` list the choices, and other marks of `kcv.common.parameters` limit numbers.
- The first line of the docstring is the summary. The first sentence of an entry in `Args:` is the meaning of the flag;
  the rest is for Python users. Lines in `Example:` that begin with `$` are commands to try.
- `**overrides` turns each key of the configuration into a flag.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from kcv.cli.verbs import FORMATS, VERBS
from kcv.common.parameters import AtLeast, Between, ListedOnStdin, OneOf, PythonOnly
from kcv.errors import UsageError, nearest

if TYPE_CHECKING:
    from kcv.config.keys import Specification

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SECTION = re.compile(r"(Args|Attributes|Example|Examples|Raises|Returns|Yields):")
_ENTRY = re.compile(r" {4}\*{0,2}(\w+): (.*)")
_SENTENCE = re.compile(r"\.(?= [A-Z]| *$)")


@dataclass(frozen=True)
class Flag:
    """A parameter of a verb on the command line.

    Attributes:
        name: name of the parameter, and of the flag after two dashes.
        meaning: description for the help.
        default: default of the parameter; None if `meaning` describes what happens without a value.
        required: whether there is no default.
        listed: the allowed values if they are listed, or a function that returns them.
        limit: the allowed range of a number.
        switch: whether it needs no value: `--force` is short for `--force=true`.
        many: whether it may be given several times.
        stdin: whether `-` stands for a list on standard input.
    """

    name: str
    meaning: str
    default: Any = None
    required: bool = False
    listed: tuple[Any, ...] | Callable[[], tuple[str, ...]] = ()
    limit: AtLeast | Between | None = None
    switch: bool = False
    many: bool = False
    stdin: bool = False

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values if they are listed; otherwise empty."""
        return self.listed() if callable(self.listed) else self.listed

    @property
    def word(self) -> str:
        """The name of one value in the help: `MODEL`, `PATH`."""
        return (self.name.removesuffix("s") if self.many else self.name).upper()

    @property
    def typed(self) -> str:
        """The name in the usage line: `MODEL`, `[CONFIG]`, `PATH...`."""
        return (self.word if self.required else f"[{self.word}]") + ("..." if self.many else "")

    def parse(self, text: str) -> Any:
        """Parses a typed value. Raises UsageError if it is not allowed."""
        if self.switch:
            return self._chosen(text.lower(), {"true": True, "false": False}, text)
        if self.choices:
            return self._chosen(text, {str(choice): choice for choice in self.choices}, text)
        if isinstance(self.limit, AtLeast):
            if not re.fullmatch(r"\+?[0-9]{1,9}", text) or int(text) < self.limit.low:
                raise self._refused(text, f"a whole number from {self.limit.low} to 999999999")
            return int(text)
        if isinstance(self.limit, Between):
            low, high = self.limit.low, self.limit.high
            number = float(text) if _NUMBER.fullmatch(text) else math.nan
            if not low <= number <= high:
                raise self._refused(text, f"a number from {low:g} to {high:g}")
            return number
        if not text.strip():
            raise UsageError(f"--{self.name}: received '', a value is needed.")
        return text

    def _chosen(self, text: str, allowed: Mapping[str, Any], typed: str) -> Any:
        if text not in allowed:
            hint = "" if self.switch else nearest(text, allowed)
            raise self._refused(typed, ", ".join(allowed), hint)
        return allowed[text]

    def _refused(self, text: str, allowed: str, hint: str = "") -> UsageError:
        return UsageError(f"--{self.name}: received {text!r}, allowed: {allowed}.{hint}")


FORMAT = Flag("format", "how results are printed", FORMATS[0], listed=FORMATS)
"""The only flag that is not a parameter: the command line adds it to all verbs."""


@dataclass(frozen=True)
class Verb:
    """The specification of a verb.

    Attributes:
        name: name of the verb.
        summary: one line for the help.
        operand: the parameter without a flag; None if there is none.
        flags: flags by name; `format` is the last.
        examples: commands to try, without the program name.
        configured: whether every key of the configuration is a flag too.
    """

    name: str
    summary: str
    operand: Flag | None
    flags: Mapping[str, Flag]
    examples: tuple[str, ...]
    configured: bool = False

    @property
    def usage(self) -> str:
        """The operand in the usage line, or an empty string."""
        return self.operand.typed if self.operand else ""


def find_verb(typed: str) -> Verb:
    """Returns a verb by its name.

    Raises:
        UsageError: there is no verb of that name.
    """
    if typed not in VERBS:
        hint = nearest(typed, VERBS)
        raise UsageError(f"unknown verb {typed!r}.{hint} There are {', '.join(VERBS)}; see kcv --help.")
    return _verb(typed)


def function_of(name: str) -> Callable[..., Any]:
    """Returns the function of a verb. Importing its module imports no heavy library."""
    function: Callable[..., Any] = getattr(importlib.import_module(VERBS[name].module), name)
    return function


def config_keys() -> Specification:
    """Returns the keys of the configuration."""
    from kcv.config import SHORT_FLAGS, Config
    from kcv.config.keys import specify

    return specify(Config, SHORT_FLAGS)


@cache
def _verb(name: str) -> Verb:
    return read_verb(name, function_of(name), VERBS[name].formats)


def read_verb(name: str, function: Callable[..., Any], formats: Sequence[str] = FORMATS) -> Verb:
    """Derives the specification of a verb from its function.

    Raises:
        TypeError: the signature or the docstring is incomplete; the message says what is missing.
    """
    documented = _Docstring.of(function)
    hints = _parameter_types(function)
    operand: Flag | None = None
    flags: dict[str, Flag] = {}
    configured = False
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind is parameter.VAR_KEYWORD:
            configured = True
            continue
        if parameter.name not in documented.meanings:
            raise TypeError(f"{name}: the docstring does not say what {parameter.name} means")
        hint = _Hint.of(hints[parameter.name])
        if hint.marked(PythonOnly):
            continue
        flag = _flag(parameter, hint, documented.meanings[parameter.name])
        if position == 0 and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            operand = flag
        else:
            flags[flag.name] = flag
    flags[FORMAT.name] = replace(FORMAT, listed=tuple(formats))
    return Verb(name, documented.summary, operand, flags, documented.examples, configured)


def _flag(parameter: inspect.Parameter, hint: _Hint, meaning: str) -> Flag:
    required = parameter.default is parameter.empty
    if not hint.listed and {int, float} & set(hint.types) and hint.limit is None:
        raise TypeError(f"{parameter.name}: a number needs a limit, see kcv.common.parameters")
    return Flag(
        parameter.name,
        meaning,
        None if required else parameter.default,
        required,
        hint.listed,
        hint.limit,
        switch=bool in hint.types,
        many=any(isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Iterable) for kind in hint.types),
        stdin=hint.marked(ListedOnStdin),
    )


@dataclass(frozen=True)
class _Hint:
    """The parts of an annotation: the types of a value, the choices, and the marks."""

    types: tuple[Any, ...]
    choices: tuple[Any, ...]
    marks: tuple[Any, ...]

    @classmethod
    def of(cls, annotation: Any) -> _Hint:
        kinds: list[Any] = []
        choices: list[Any] = []
        marks: list[Any] = []
        pending = [annotation]
        while pending:
            one = pending.pop(0)
            if get_origin(one) is Annotated:
                marks += one.__metadata__
                pending.append(one.__origin__)
            elif get_origin(one) in (Union, types.UnionType):
                pending += get_args(one)
            elif get_origin(one) is Literal:
                choices += get_args(one)
            elif one is not type(None):
                kinds.append(one)
        return cls(tuple(kinds), tuple(choices), tuple(marks))

    def marked(self, kind: type) -> bool:
        return any(isinstance(mark, kind) for mark in self.marks)

    @property
    def listed(self) -> tuple[Any, ...] | Callable[[], tuple[str, ...]]:
        for mark in self.marks:
            if isinstance(mark, OneOf):
                return mark.names
        return self.choices

    @property
    def limit(self) -> AtLeast | Between | None:
        return next((mark for mark in self.marks if isinstance(mark, AtLeast | Between)), None)


def _parameter_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the types of the parameters. A name imported only for type checkers (a model class) stands for any type.

    No typed value has such a type, so the command line does not need to know it.
    """
    function = inspect.unwrap(function)
    annotations = {name: text for name, text in function.__annotations__.items() if name != "return"}
    known = {**vars(builtins), **function.__globals__}
    written = [compile(text, function.__name__, "eval") for text in annotations.values() if isinstance(text, str)]
    unknown = {name: Any for code in written for name in code.co_names if name not in known}
    bare = types.SimpleNamespace(__annotations__=annotations)
    return get_type_hints(bare, globalns=function.__globals__, localns=unknown, include_extras=True)


@dataclass(frozen=True)
class _Docstring:
    """The parts of a Google docstring that the command line uses."""

    summary: str
    meanings: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _Docstring:
        text = inspect.getdoc(function)
        if not text:
            raise TypeError(f"{function.__name__} has no docstring")
        sections: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in text.splitlines():
            if match := _SECTION.fullmatch(line):
                lines = sections.setdefault(match[1].removesuffix("s"), [])
            else:
                lines.append(line)
        commands = (line.strip() for line in sections.get("Example", ()))
        examples = tuple(line.removeprefix("$ kcv ") for line in commands if line.startswith("$ kcv "))
        return cls(text.splitlines()[0], _meanings(sections.get("Arg", ())), examples)


def _meanings(lines: Sequence[str]) -> dict[str, str]:
    """Returns the first sentence of each entry of `Args:`, without its full stop."""
    entries: dict[str, str] = {}
    name = None
    for line in lines:
        if match := _ENTRY.fullmatch(line):
            name, entries[match[1]] = match[1], match[2]
        elif name is not None and line.strip():
            entries[name] += f" {line.strip()}"
    return {name: _SENTENCE.split(text, maxsplit=1)[0].replace("`", "") for name, text in entries.items()}
