"""Help pages, generated from the specification of the verbs and the schema of the configuration."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kcv.cli.console import paint, program
from kcv.cli.specification import Flag, Verb, config_keys, find_verb
from kcv.cli.verbs import VERBS

if TYPE_CHECKING:
    from kcv.config.keys import Key


def overview() -> str:
    """Returns the help page of kcv."""
    verbs = [(f"{verb.name} {verb.usage}".rstrip(), verb.summary) for verb in map(find_verb, VERBS)]
    return "\n".join(
        (
            "kcv: train, evaluate and run image classifiers (Keras 3 on PyTorch)",
            "",
            paint("Usage", "bold"),
            "  kcv VERB ... [--OPTION=VALUE ...]      (or: python -m kcv VERB ...)",
            "",
            paint("Verbs", "bold"),
            _columns(verbs),
            "",
            paint("Options", "bold"),
            _columns([("VERB --help", "the options of a verb"), ("--version", "the version of kcv")]),
            "",
            paint("Try", "bold"),
            f"  {program()} train configs/quickstart.yaml",
        )
    )


def page(verb: Verb) -> str:
    """Returns the help page of a verb, with every option and its default."""
    lines = [
        f"kcv {verb.name}: {verb.summary}",
        "",
        paint("Usage", "bold"),
        "  " + " ".join(filter(None, ("kcv", verb.name, verb.usage, "[--OPTION=VALUE ...]"))),
        "",
        *([_columns([(flag.typed, _meaning(flag)) for flag in verb.operands]), ""] if verb.operands else []),
        paint("Options", "bold"),
        _columns(
            [
                (f"--{flag.name}{_default(flag)}", _meaning(flag) + ("; required" if flag.required else ""))
                for flag in verb.flags.values()
            ]
        ),
    ]
    if verb.configured:
        lines += ["", paint("Configuration", "bold") + ": keys of the YAML file, and flags that override it", ""]
        keys = [key for key in config_keys().keys.values() if key.short not in verb.flags]
        lines += [_columns([_configuration(key) for key in keys])]
    lines += ["", paint("Try", "bold"), *(f"  {program()} {example}" for example in verb.examples)]
    return "\n".join(lines)


def _default(flag: Flag) -> str:
    return "" if flag.default is None or flag.switch else f"={flag.default}"


def _meaning(flag: Flag) -> str:
    allowed = flag.described.text() if flag.described else " | ".join(map(str, flag.choices))
    return f"{flag.meaning} ({allowed})" if allowed else flag.meaning


def _configuration(key: Key) -> tuple[str, str]:
    flag = f"--{key.name}" if key.short == key.name else f"--{key.short}, --{key.name}"
    default = "null" if key.default is None else key.default
    choices = f" ({' | '.join(key.choices)})" if len(key.choices) > 1 else ""
    return f"{flag}={default}", key.description + choices


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    """Formats names and meanings as two columns; the meanings wrap at the width of the terminal."""
    width = max(60, min(shutil.get_terminal_size((110, 24)).columns, 120))
    left = min(max(len(name) for name, _ in rows), 46)
    lines = []
    for name, meaning in rows:
        wrapped = textwrap.wrap(meaning, max(24, width - left - 4), break_on_hyphens=False) or [""]
        lines += [f"  {name.ljust(left)}  {wrapped[0]}"]
        lines += [" " * (left + 4) + line for line in wrapped[1:]]
    return "\n".join(lines)
