"""Parses and checks the words of a command line into the arguments of a verb's function."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kcv.cli.specification import FORMAT, Flag, Verb, config_keys
from kcv.cli.verbs import FILE_FORMATS, FORMATS, RENAMED
from kcv.errors import UsageError

_FLAG = re.compile(r"--?[A-Za-z]")


@dataclass(frozen=True)
class Call:
    """A verb and its typed arguments.

    Attributes:
        verb: specification of the verb.
        arguments: typed arguments of its function by name, without defaults.
        format: how the result is shown: one of the verb's formats.
        warnings: lines for the user about renamed flags.
    """

    verb: Verb
    arguments: Mapping[str, Any]
    format: str = FORMATS[0]
    warnings: tuple[str, ...] = ()

    @property
    def as_json(self) -> bool:
        """Whether the result is shown as JSON."""
        return self.format == "json"


@dataclass
class _Typed:
    """The words of a command, split into flags with their texts, and operands."""

    flags: dict[str, str] = field(default_factory=dict)
    operands: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def parse(verb: Verb, words: Sequence[str]) -> Call:
    """Checks the words after a verb.

    Raises:
        UsageError: the words are not valid; the message is one line.
    """
    typed = _tell_apart(verb, words)
    _move_file_format(verb, typed)
    arguments: dict[str, Any] = {}
    _take_second(verb, typed)
    if verb.operand is None:
        if typed.operands:
            raise UsageError(f"{verb.name} takes only options, but not {typed.operands[0]!r}.")
    elif (operand := _operand(verb, verb.operand, typed)) is not None:
        arguments[verb.operand.name] = operand
    for flag in verb.flags.values():
        if flag.name in typed.flags:
            arguments[flag.name] = flag.parse(typed.flags.pop(flag.name))
    arguments |= typed.flags  # the remaining flags are keys of the configuration
    for flag in verb.flags.values():
        if flag.required and flag.name not in arguments:
            wanted = verb.usage if flag is verb.second else f"--{flag.name}={flag.name.upper()}"
            raise UsageError(f"{verb.name} needs {wanted}: {flag.meaning}.")
    if verb.operand is not None and verb.operand.stdin:
        arguments[verb.operand.name] = _listed(verb, arguments[verb.operand.name])
    return Call(verb, arguments, arguments.pop(FORMAT.name, FORMAT.default), tuple(typed.warnings))


def _tell_apart(verb: Verb, words: Sequence[str]) -> _Typed:
    typed = _Typed()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "-" and verb.operand is not None and verb.operand.stdin:
            typed.operands.append(word)
        elif word in ("-", "--"):
            raise _not_understood(word)
        elif _FLAG.match(word) or word.startswith("--"):
            _take_flag(verb, word, rest, typed)
        else:
            typed.operands.append(word)
    return typed


def _take_flag(verb: Verb, word: str, rest: list[str], typed: _Typed) -> None:
    """Parses a flag and its value, which may be the next word."""
    shown, equals, text = word.partition("=")
    name = shown.lstrip("-").replace("-", "_")
    if (verb.name, name) in RENAMED:
        new = RENAMED[verb.name, name]
        typed.warnings.append(f"{shown} is now --{new}; the old name will go in a later release.")
        name = new
    _know(verb, name, shown)
    if not equals:
        if _is_switch(verb, name):
            text = "true"
        elif not rest or _FLAG.match(rest[0]):
            raise UsageError(f"{word} needs a value: {word}=VALUE.")
        elif rest[0] in ("-", "--"):
            raise _not_understood(rest[0])
        else:
            text = rest.pop(0)
    if name in typed.flags:
        raise UsageError(f"--{name} is given twice; give it once.")
    typed.flags[name] = text


def _move_file_format(verb: Verb, typed: _Typed) -> None:
    """Gives a format of files that was typed as `--format` to the flag that it is meant for."""
    flag = verb.flags.get(FILE_FORMATS.get(verb.name, ""))
    if flag is not None and typed.flags.get(FORMAT.name) in flag.choices:
        if flag.name in typed.flags:
            raise UsageError(f"--{FORMAT.name} and --{flag.name} both name a format of the file; give one.")
        typed.flags[flag.name] = typed.flags.pop(FORMAT.name)


def _take_second(verb: Verb, typed: _Typed) -> None:
    """Takes the word after the operand as the value of the flag that it stands for."""
    named = verb.operand is not None and verb.operand.name in typed.flags
    if verb.second is not None and verb.second.name not in typed.flags and len(typed.operands) == 2 - named:
        typed.flags[verb.second.name] = typed.operands.pop()


def _not_understood(word: str) -> UsageError:
    return UsageError(f"{word} is not understood; write the path of a file, ./-name if it begins with a dash.")


def _operand(verb: Verb, operand: Flag, typed: _Typed) -> Any:
    """Returns the operand: a list if several values are allowed, None if it is optional and missing."""
    given = typed.operands
    named = None if operand.many else typed.flags.pop(operand.name, None)
    if named is not None:
        given = [*given, named]
    if not given and operand.required:
        raise UsageError(f"{verb.name} needs {verb.usage}: {operand.meaning}.")
    if len(given) > 1 and not operand.many:
        over = given[2] if len(given) > 2 and verb.second is not None else given[1]
        raise UsageError(f"{verb.name} takes {verb.usage} and options, but not {over!r} as well.")
    for text in given:
        if not text.strip():
            raise UsageError(f"{verb.name}: {operand.word} is empty; {operand.meaning}.")
    if operand.many:
        return given
    if not given:
        return None
    try:
        return operand.parse(given[0])
    except UsageError as error:
        raise UsageError(str(error).replace(f"--{operand.name}: ", f"{verb.name}: ", 1)) from None


def _listed(verb: Verb, paths: list[str]) -> Any:
    """Returns the paths, or the paths listed on standard input if `-` was given."""
    if "-" not in paths:
        return paths
    if len(paths) > 1:
        raise UsageError(f"{verb.name}: - stands alone; the list on standard input names all images.")
    if sys.stdin is None:
        raise UsageError(f"{verb.name} -: standard input is closed.")
    from kcv import images

    return images.read_list(sys.stdin.buffer)


def _is_switch(verb: Verb, name: str) -> bool:
    """Returns whether a flag needs no value: a switch of the verb, or a boolean key of the configuration."""
    if name in verb.flags:
        return verb.flags[name].switch
    if verb.configured and (key := config_keys().resolve(name)):
        return isinstance(config_keys().keys[key].default, bool)
    return False


def _know(verb: Verb, name: str, shown: str) -> None:
    """Raises UsageError with the most similar valid name if the verb does not have this flag."""
    operand = verb.operand is not None and not verb.operand.many and name == verb.operand.name
    if operand or name in verb.flags or (verb.configured and config_keys().resolve(name)):
        return
    from kcv.config.keys import closest

    suggestion = closest(name, verb.flags)
    if suggestion is None and verb.configured:
        keys = config_keys()
        key = keys.suggest(name)
        suggestion = {full: short for short, full in keys.shorts.items()}.get(key or "", key)
    if suggestion is not None:
        hint = f"Did you mean --{suggestion}?"
    else:
        # Always suggest a name: even a dissimilar one shows what valid names look like.
        names = [*verb.flags, *config_keys().shorts, *config_keys().keys] if verb.configured else list(verb.flags)
        hint = f"The nearest is --{closest(name, names, cutoff=0.0)}; see kcv {verb.name} --help."
    raise UsageError(f"unknown option {shown} for {verb.name}. {hint}")
