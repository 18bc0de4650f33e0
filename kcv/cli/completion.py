"""Shell completion scripts for verbs, flags and choices, generated from the specification.

A script is generated once (`kcv completion bash`) and runs no command during completion.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from kcv.cli.specification import Flag, Verb, config_keys, find_verb
from kcv.cli.verbs import VERBS
from kcv.common.parameters import checked

_BOOLEAN = ("true", "false")


@dataclass(frozen=True)
class _Option:
    """A flag with its meaning and the choices for its value; without choices, file names are completed."""

    name: str
    meaning: str
    choices: tuple[str, ...]
    switch: bool


@checked
def completion(shell: Literal["bash", "zsh", "fish"]) -> str:
    """Print a script that completes verbs, flags and their values in a shell.

    Args:
        shell: bash, zsh or fish.

    Example:
        $ kcv completion bash > ~/.local/share/bash-completion/completions/kcv
        $ kcv completion zsh > ~/.zfunc/_kcv
        $ kcv completion fish > ~/.config/fish/completions/kcv.fish
    """
    scripts: Mapping[str, Callable[[list[Verb]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return scripts[shell]([find_verb(name) for name in VERBS])


def _options(verb: Verb) -> list[_Option]:
    options = [_Option(flag.name, flag.meaning, _choices(flag), flag.switch) for flag in verb.flags.values()]
    if verb.configured:
        for key in config_keys().keys.values():
            switch = isinstance(key.default, bool)
            choices = key.choices or (_BOOLEAN if switch else ())
            for name in dict.fromkeys((key.short, key.name)):
                options.append(_Option(name, key.description, tuple(map(str, choices)), switch))
    return options


def _choices(flag: Flag) -> tuple[str, ...]:
    return _BOOLEAN if flag.switch else tuple(map(str, flag.choices))


# ---- bash

_BASH = """\
# Completion of kcv in bash. Made by `kcv completion bash`.

_kcv() {{
    local verb=${{COMP_WORDS[1]}} word=${{COMP_WORDS[COMP_CWORD]}} flag=${{COMP_WORDS[COMP_CWORD-1]}}
    local -a words=()
    # bash takes --flag=value for three words.
    if [[ $word == = ]]; then
        flag+="=" word=""
    elif [[ $COMP_CWORD -gt 2 && $flag == = ]]; then
        flag="${{COMP_WORDS[COMP_CWORD-2]}}="
    fi
    if [[ $COMP_CWORD -eq 1 ]]; then
        words=({verbs} --help --version)
    else
        case "$verb $flag" in
{values}
        esac
        if [[ ${{#words[@]}} -eq 0 && $flag != *= ]]; then
            if [[ $word == -* ]]; then
                case $verb in
{flags}
                esac
            else
                case $verb in
{operands}
                esac
            fi
        fi
    fi
    COMPREPLY=($(compgen -W "${{words[*]}}" -- "$word"))
    if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}}

complete -o default -F _kcv kcv"""


def _bash(verbs: list[Verb]) -> str:
    values, flags, operands = [], [], []
    for verb in verbs:
        options = _options(verb)
        # A switch needs no value; all other flags do.
        words = [f"--{option.name}" + ("" if option.switch else "=") for option in options]
        flags.append(f"                    {verb.name}) words=({' '.join([*words, '--help'])}) ;;")
        for option in options:
            if option.choices:
                chosen = " ".join(map(shlex.quote, option.choices))
                typed = f'"{verb.name} --{option.name}'
                given = f'{typed}="' if option.switch else f'{typed}"|{typed}="'
                values.append(f"            {given}) words=({chosen}) ;;")
        if verb.operand and verb.operand.choices:
            operands.append(f"                    {verb.name}) words=({' '.join(map(str, verb.operand.choices))}) ;;")
    names = " ".join(verb.name for verb in verbs)
    blocks = ("\n".join(block) for block in (values, flags, operands))
    return _BASH.format(verbs=names, **dict(zip(("values", "flags", "operands"), blocks, strict=True)))


# ---- zsh

_ZSH = """\
#compdef kcv
# Completion of kcv in zsh. Made by `kcv completion zsh`.

_kcv() {{
    local -a verbs
    verbs=(
{verbs}
    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        _arguments '--help[the help page]' '--version[the version of kcv]'
        return
    fi
    local verb=$words[2]
    shift words
    (( CURRENT-- ))
    case $verb in
{cases}
    esac
}}

if [[ $funcstack[1] == _kcv ]]; then
    _kcv "$@"
else
    compdef _kcv kcv
fi"""


def _zsh(verbs: list[Verb]) -> str:
    names = "\n".join("        " + _quoted(f"{verb.name}:{_escaped(verb.summary, ':')}") for verb in verbs)
    cases = []
    for verb in verbs:
        arguments = [_zsh_option(option) for option in _options(verb)]
        if verb.operand is not None:
            place = "*" if verb.operand.many else "1"
            listed = f"({' '.join(map(str, verb.operand.choices))})" if verb.operand.choices else "_files"
            arguments.append(f"{place}:{verb.operand.word}:{listed}")
        lines = " \\\n".join(f"                {_quoted(argument)}" for argument in [*arguments, "--help[this help]"])
        cases.append(f"        {verb.name})\n            _arguments \\\n{lines} ;;")
    return _ZSH.format(verbs=names, cases="\n".join(cases))


def _zsh_option(option: _Option) -> str:
    meaning = f"[{_escaped(option.meaning, '[]:')}]"
    if option.switch:
        return f"--{option.name}{meaning}"
    listed = f"({' '.join(option.choices)})" if option.choices else "_files"
    return f"--{option.name}={meaning}:{option.name}:{listed}"


def _escaped(text: str, characters: str) -> str:
    return "".join(f"\\{char}" if char in characters else char for char in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


# ---- fish


def _fish(verbs: list[Verb]) -> str:
    lines = ["# Completion of kcv in fish. Made by `kcv completion fish`."]
    top = "complete -c kcv -n __fish_use_subcommand"
    lines += [f"{top} -f -a {verb.name} -d {_fish_text(verb.summary)}" for verb in verbs]
    lines += [f"{top} -f -l {name} -d {_fish_text(meaning)}" for name, meaning in
              (("help", "the help page"), ("version", "the version of kcv"))]  # fmt: skip
    for verb in verbs:
        under = f"complete -c kcv -n '__fish_seen_subcommand_from {verb.name}'"
        if verb.operand is not None and verb.operand.choices:
            lines.append(f"{under} -f -a {_fish_text(' '.join(map(str, verb.operand.choices)))}")
        for option in _options(verb):
            given = f"{under} -l {option.name} -d {_fish_text(option.meaning)}"
            if option.switch:
                lines.append(given)
            elif option.choices:
                lines.append(f"{given} -x -a {_fish_text(' '.join(option.choices))}")
            else:
                lines.append(f"{given} -r")
        lines.append(f"{under} -l help -d 'this help'")
    return "\n".join(lines)


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
