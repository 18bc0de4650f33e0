"""The specification of a verb, derived from its function: flags and checks from the signature, help from the docstring.

There is no other definition. The rules:

- The first parameter is typed without a flag if it can be passed by position; it may be given several times if its type
  is a collection. All other parameters are flags; those without a default are required. One that is marked as `Second`
  may be typed without its flag, after the first.
- `bool` is a switch, `Literal` and `OneOf` list the choices, and other marks of `kcv.common.parameters` limit numbers.
  `@checked` makes calls from Python obey the same limits.
- The first line of the docstring is the summary. The first sentence of an entry in `Args:` is the meaning of the flag;
  the rest is for Python users. Lines in `Example:` that begin with `$` are commands to try.
- `**overrides` turns each key of the configuration into a flag.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, get_origin

from kcv.cli.verbs import FORMATS, VERBS
from kcv.common.parameters import (
    AtLeast,
    Between,
    Described,
    Hint,
    ListedOnStdin,
    PythonOnly,
    Second,
    hints_of,
    not_allowed,
)
from kcv.errors import UsageError, nearest

if TYPE_CHECKING:
    from kcv.config.keys import Specification

_WHOLE = re.compile(r"\+?[0-9]{1,9}")
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
        described: returns a description of the allowed values, if they are not listed.
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
    described: Described | None = None

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
            return self._number(text, int(text) if _WHOLE.fullmatch(text) else None, self.limit)
        if isinstance(self.limit, Between):
            return self._number(text, float(text) if _NUMBER.fullmatch(text) else None, self.limit)
        if not text.strip():
            raise UsageError(f"--{self.name}: received '', a value is needed.")
        return text

    def _number(self, text: str, value: float | None, limit: AtLeast | Between) -> float:
        if value is None or not limit.admits(value):
            raise not_allowed(f"--{self.name}", text, limit.allowed)
        return value

    def _chosen(self, text: str, allowed: Mapping[str, Any], typed: str) -> Any:
        if text not in allowed:
            hint = "" if self.switch else nearest(text, allowed)
            raise not_allowed(f"--{self.name}", typed, ", ".join(allowed), hint)
        return allowed[text]


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
        second: the flag whose value may be typed after the operand; None if there is none.
    """

    name: str
    summary: str
    operand: Flag | None
    flags: Mapping[str, Flag]
    examples: tuple[str, ...]
    configured: bool = False
    second: Flag | None = None

    @property
    def operands(self) -> tuple[Flag, ...]:
        """What is typed without a flag, in order."""
        return tuple(flag for flag in (self.operand, self.second) if flag is not None)

    @property
    def usage(self) -> str:
        """The operands in the usage line, or an empty string."""
        return " ".join(flag.typed for flag in self.operands)


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
    hints = hints_of(function)
    operand: Flag | None = None
    flags: dict[str, Flag] = {}
    second: Flag | None = None
    configured = False
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind is parameter.VAR_KEYWORD:
            configured = True
            continue
        if parameter.name not in documented.meanings:
            raise TypeError(f"{name}: the docstring does not say what {parameter.name} means")
        hint = hints[parameter.name]
        if hint.mark(PythonOnly):
            continue
        flag = _flag(parameter, hint, documented.meanings[parameter.name])
        if position == 0 and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            operand = flag
        else:
            flags[flag.name] = flag
            second = flag if hint.mark(Second) else second
    flags[FORMAT.name] = replace(FORMAT, listed=tuple(formats))
    return Verb(name, documented.summary, operand, flags, documented.examples, configured, second)


def _flag(parameter: inspect.Parameter, hint: Hint, meaning: str) -> Flag:
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
        stdin=hint.mark(ListedOnStdin) is not None,
        described=hint.mark(Described),
    )


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
