"""Options and operands of the command line, and the check of what was typed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kcv.config import SHORT_FLAGS, Config
from kcv.config.keys import Specification, closest, specify
from kcv.errors import UsageError, nearest

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Option:
    """One flag of a verb.

    Attributes:
        name: without the dashes.
        meaning: for the help.
        default: what it is where it is not given; None where that is said in `meaning`.
        choices: the values allowed, where they are listed.
        least: where it is a whole number, the smallest allowed.
        between: where it is a number, the smallest and the largest allowed.
        switch: whether it needs no value: `--force` is short for `--force=true`.
    """

    name: str
    meaning: str
    default: str | int | bool | None = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    between: tuple[float, float] | None = None
    switch: bool = False

    def parse(self, text: str) -> str | float | bool:
        """Returns the value that was typed. Raises UsageError where it is not allowed."""
        if self.switch:
            if text.lower() not in ("true", "false"):
                raise UsageError(f"--{self.name}: received {text!r}, allowed: true, false.")
            return text.lower() == "true"
        if self.choices and text not in self.choices:
            allowed = ", ".join(self.choices)
            raise UsageError(f"--{self.name}: received {text!r}, allowed: {allowed}.{nearest(text, self.choices)}")
        if self.least is not None:
            if not re.fullmatch(r"\+?[0-9]{1,9}", text) or int(text) < self.least:
                raise UsageError(
                    f"--{self.name}: received {text!r}, allowed: a whole number from {self.least} to 999999999."
                )
            return int(text)
        if self.between is not None:
            low, high = self.between
            number = float(text) if _NUMBER.fullmatch(text) else math.nan
            if not low <= number <= high:
                raise UsageError(f"--{self.name}: received {text!r}, allowed: a number from {low:g} to {high:g}.")
            return number
        if not text.strip():
            raise UsageError(f"--{self.name}: received '', a value is needed.")
        return text


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        name: as typed.
        summary: one line for the help.
        operands: names of what is given without a flag.
        needed: how many of the operands must be there.
        many: whether the last operand may be given more than once.
        operand_help: what the operands are.
        options: its flags.
        examples: commands to try.
        configured: whether every configuration key is a flag too.
        operand_choices: the words allowed as the first operand, where they are listed.
        stdin: whether `-` stands for a list of operands on standard input.
    """

    name: str
    summary: str
    operands: tuple[str, ...]
    needed: int
    operand_help: str
    options: tuple[Option, ...]
    examples: tuple[str, ...]
    many: bool = False
    configured: bool = False
    operand_choices: tuple[str, ...] = ()
    stdin: bool = False

    @property
    def usage(self) -> str:
        """The operands as a help page shows them: `MODEL`, `[CONFIG]`, `PATH...`."""
        words = [name.upper() if i < self.needed else f"[{name.upper()}]" for i, name in enumerate(self.operands)]
        return " ".join(words) + ("..." if self.many else "")


def config_keys() -> Specification:
    """Returns the keys of the configuration."""
    return specify(Config, SHORT_FLAGS)


def check_words(verb: Verb, words: Sequence[str]) -> list[str]:
    """Checks what Fire would quietly misread: flags without a value, flags given twice, and `--`.

    Returns:
        The words with a value at every switch.

    Raises:
        UsageError: one line.
    """
    seen: dict[str, str] = {}
    checked = list(words)
    for position, word in enumerate(words):
        if word == "-" and verb.stdin:
            continue
        if word in ("-", "--"):
            raise UsageError(f"{word} is not understood; write the path of a file, ./-name if it begins with a dash.")
        if not re.match(r"--?[A-Za-z]", word):
            continue
        name, equals, _ = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        _know(verb, name, word.partition("=")[0])
        following = words[position + 1] if position + 1 < len(words) else ""
        if not equals and _is_switch(verb, name):
            checked[position] = f"{word}=true"
        elif not equals and (not following or re.match(r"--?[A-Za-z]", following)):
            raise UsageError(f"{word} needs a value: {word}=VALUE.")
        if name in seen:
            raise UsageError(f"--{name} is given twice; give it once.")
        seen[name] = word
    return checked


def check(verb: Verb, operands: Sequence[str], flags: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Checks the operands and flags of a verb.

    Returns:
        The verb's own values (operands and options, by name; an operand that may be many is a list), and the
        configuration overrides.

    Raises:
        UsageError: one line.
    """
    flags = dict(flags)
    given = list(operands)
    if not given and not verb.many:
        given = [flags.pop(name) for name in verb.operands[:1] if name in flags and not _is_option(verb, name)]
    if len(given) < verb.needed:
        raise UsageError(f"{verb.name} needs {verb.usage}: {verb.operand_help}.")
    if len(given) > len(verb.operands) and not verb.many:
        extra = given[len(verb.operands)]
        known = f"{verb.usage} and options" if verb.operands else "only options"
        raise UsageError(f"{verb.name} takes {known}, but not {extra!r}{' as well' if verb.operands else ''}.")
    for text in given:
        if not text.strip():
            raise UsageError(f"{verb.name}: {verb.operands[0].upper()} is empty; {verb.operand_help}.")
    if verb.operand_choices and given[0] not in verb.operand_choices:
        hint = nearest(given[0], verb.operand_choices)
        raise UsageError(f"{verb.name}: received {given[0]!r}, allowed: {', '.join(verb.operand_choices)}.{hint}")
    for name in flags:
        _know(verb, name, f"--{name}")
    values: dict[str, Any] = {name: None for name in verb.operands}
    if verb.many:
        values[verb.operands[-1]] = given
    else:
        values.update(zip(verb.operands, given, strict=False))
    for option in verb.options:
        values[option.name] = option.parse(flags.pop(option.name)) if option.name in flags else option.default
    return values, flags


def _is_switch(verb: Verb, name: str) -> bool:
    """Whether a flag needs no value: a verb's switch, or a configuration key that is true or false."""
    if verb.configured and (key := config_keys().resolve(name)):
        return isinstance(config_keys().keys[key].default, bool)
    return any(option.name == name and option.switch for option in verb.options)


def _is_option(verb: Verb, name: str) -> bool:
    return any(option.name == name for option in verb.options)


def _know(verb: Verb, name: str, typed: str) -> None:
    """Raises UsageError, with the nearest right name, for a flag that the verb does not have."""
    operand = not verb.many and name in verb.operands
    if operand or _is_option(verb, name) or (verb.configured and config_keys().resolve(name)):
        return
    own = [option.name for option in verb.options]
    suggestion = closest(name, own)
    if suggestion is None and verb.configured:
        keys = config_keys()
        key = keys.suggest(name)
        suggestion = {full: short for short, full in keys.shorts.items()}.get(key or "", key)
    if suggestion is not None:
        hint = f"Did you mean --{suggestion}?"
    else:
        # Always a name: even a far one shows what names look like here.
        names = [*own, *config_keys().shorts, *config_keys().keys] if verb.configured else own
        hint = f"The nearest is --{closest(name, names, cutoff=0.0)}; see kcv {verb.name} --help."
    raise UsageError(f"unknown option {typed} for {verb.name}. {hint}")
