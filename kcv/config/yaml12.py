"""Reads and writes YAML with YAML 1.2 scalars, without duplicate keys and without tags that build objects."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from kcv.common.untrusted import opened
from kcv.config.scalars import BOOL, FLOAT, INT, MOST_DIGITS, NULL, to_float
from kcv.config.shipped import shipped
from kcv.errors import ConfigError, KcvError, first_line, nearest

MAX_BYTES = 1_000_000
"""A larger file is not a configuration and was probably given by mistake."""

MAX_NODES = 10_000
_TOO_MANY = f"more than {MAX_NODES} values, or a value that holds itself"

_MOST_DEPTH = 64


class _Loader(yaml.SafeLoader):
    """The safe loader with the core schema's scalars, no duplicate keys, and limits on size and depth."""

    nodes_left = MAX_NODES
    tokens_left = MAX_NODES * 6

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise ValueError(_TOO_MANY)
        return super().compose_node(parent, index)

    def fetch_more_tokens(self) -> Any:
        self.tokens_left -= 1
        if self.tokens_left < 0:
            raise ValueError(_TOO_MANY)
        if max(self.flow_level, len(self.indents)) > _MOST_DEPTH:  # each level slows down the rest
            raise RecursionError
        return super().fetch_more_tokens()


class _Dumper(yaml.SafeDumper):
    """The safe dumper; it quotes text that either version of YAML would read as something else."""


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    if text.startswith(("0o", "0x")):
        return int(text, 0)
    return int(text)  # 010 is ten in YAML 1.2 and eight in 1.1


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return to_float(loader.construct_scalar(node))


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", BOOL, "tTfF"),
    ("tag:yaml.org,2002:int", INT, "-+0123456789"),
    ("tag:yaml.org,2002:float", FLOAT, "-+.0123456789"),
    ("tag:yaml.org,2002:null", NULL, ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))
    if _tag.endswith("float"):
        _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_list(text: str) -> Any:
    """Parses text as a YAML list in brackets; returns other text unchanged."""
    return _parse_collection(text, "[")


def parse_mapping(text: str) -> Any:
    """Parses text as a YAML mapping in braces; returns other text unchanged."""
    return _parse_collection(text, "{")


def _parse_collection(text: str, opening: str) -> Any:
    if not text.lstrip().startswith(opening):
        return text
    try:
        values = yaml.load(text[:MAX_BYTES], Loader=_Loader)
        _require_small(values)
    except Exception:  # as in `read_mapping`
        return text
    return values


def read_mapping(path: Path) -> dict[Any, Any]:
    """Reads a YAML file that contains one mapping; one of kcv's own, `configs/NAME.yaml`, from any folder.

    Raises:
        ConfigError: states in one line what is wrong with the file, and where.
    """
    name = str(path)
    values = _parse(_read(path, name), name)
    if values is None:
        raise ConfigError(["is empty, a mapping of keys to values is expected."], name)
    if not isinstance(values, dict):
        kind = {"list": "a list", "str": "text"}.get(type(values).__name__, f"a {type(values).__name__}")
        raise ConfigError([f"holds {kind}, a mapping of keys to values is expected."], name)
    return values


def _read(path: Path, name: str) -> bytes:
    if os.path.isdir(path):
        raise ConfigError(["is a directory, a YAML file is expected."], name)
    try:
        if not os.path.lexists(path) and (own := shipped(path)) is not None:
            path = own
        if not os.path.lexists(path):
            raise ConfigError([f"no such file.{_near(path)}"], name)
        with opened(path, KcvError) as stream:
            content = stream.read(MAX_BYTES + 1)
    except ConfigError:
        raise
    except (KcvError, OSError, ValueError) as error:  # ValueError: the name contains a null byte
        reason = str(error).removeprefix(f"{path}: ").removeprefix("cannot be read: ")
        raise ConfigError([f"cannot be read: {reason}."], name) from None
    if len(content) > MAX_BYTES:
        raise ConfigError([f"is larger than {MAX_BYTES} bytes, too large for a YAML configuration."], name)
    return content


def _parse(content: bytes, name: str) -> Any:
    try:
        values = yaml.load(content.decode("utf-8-sig"), Loader=_Loader)
        _require_small(values)
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise ConfigError(["is not text, a YAML file in UTF-8 is expected."], name) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([f"is not valid YAML: {where}{problem}."], name) from None
    except Exception as error:  # PyYAML does not catch the errors of its number, date and tag constructors
        reason = "a value does not fit its tag"
        if isinstance(error, RecursionError | ValueError):
            reason = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise ConfigError([f"is not valid YAML: {reason}."], name) from None
    return values


def _require_small(values: Any) -> None:
    """Rejects nested aliases, with which a few lines expand to gigabytes when the values are traversed.

    Raises:
        ValueError: there are at least `MAX_NODES` values once all aliases are expanded, or a value contains itself.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        children = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        if not isinstance(value, dict | list):
            return 1
        known = sizes.get(id(value))
        if known is None:
            sizes[id(value)] = MAX_NODES  # provisional: stops the recursion in a value that contains itself
            known = sizes[id(value)] = min(1 + sum(map(size, children)), MAX_NODES)
        return known

    if size(values) >= MAX_NODES:
        raise ValueError(_TOO_MANY)


def dump(values: Mapping[str, Any]) -> str:
    """Returns block-style YAML in the order of the mapping."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


def _near(path: Path) -> str:
    """Returns a hint at a YAML file with a similar name in the same folder, or an empty string."""
    try:
        siblings = [str(other) for other in islice(path.parent.glob("*.y*ml"), 1000)]
    except (OSError, ValueError):
        return ""
    return nearest(str(path), siblings)
