"""The search space: which keys of a configuration are tried with which values.

A YAML file maps keys to a range or to a list of choices:

    optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
    optim.label_smoothing: {low: 0, high: 0.2, step: 0.05}
    augment.policy: [none, light, strong]

Everything is checked against the schema of the configuration before the first trial: each end of a range and each
choice is put into the user's configuration, as `kcv train CONFIG --key=value` would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any, Final, TypeAlias

from kcv.config import SHORT_FLAGS, Config
from kcv.config.keys import Specification, specify
from kcv.config.overrides import show
from kcv.errors import ConfigError, KcvError
from kcv.models import registry

Configure: TypeAlias = Callable[[Mapping[str, Any]], Config]
"""Returns the user's configuration with other values for some keys (dotted). Raises ConfigError if they do not fit."""

MOST_KEYS: Final = 30
MOST_CHOICES: Final = 50
_MOST_PAIRS: Final = 1_000
"""The most combinations of two values that are checked beforehand."""

_LARGEST: Final = 1e12
"""The largest number of a range; the schema allows none that is larger."""

_RANGE_FIELDS: Final = ("low", "high", "log", "step")

_FIXED: Final[Mapping[str, str]] = {
    "name": "it names the study",
    "seed": "a lucky seed is not a better configuration; --seeds=N trains the winner with several",
    "output_dir": "each trial has a folder of its own",
    "device": "all trials are to be comparable",
    "train.epochs": "all trials have the same length, so that they can be compared epoch by epoch",
    "train.minutes": "all trials have the same length, so that they can be compared epoch by epoch",
    "train.monitor": "it is what the search optimises",
    "train.keep": "it decides which epoch's monitor the search optimises",
    "train.final_split": "only the validation split is read during the search",
    "train.calibrate": "it does not change which class is named",
    "train.abstain_precision": "it does not change which class is named",
    "train.coverage": "it does not change which class is named",
    "train.plots": "it does not change the model",
    "train.checkpoint_seconds": "it does not change the model",
}
"""Keys that cannot be searched, and why."""

_DATA_SEARCHED: Final = ("image_size", "resize", "batch_size", "sampling", "class_weights")
"""The keys of `data` that can be searched: the others say which images there are, which must not differ."""


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included.

    Attributes:
        low: the smallest value.
        high: the largest value.
        log: whether equal factors are equally likely, and not equal differences.
        step: distance of neighbouring values; None for any value between (whole numbers: 1).
        whole: whether the values are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def ends(self) -> tuple[Any, ...]:
        """Returns the values that are checked against the schema."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Returns whether a value lies in the range, and on a step of it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.whole and not isinstance(value, int):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Returns the range as it is written in a space file."""
        values: dict[str, Any] = {"low": self.low, "high": self.high}
        return values | ({"log": True} if self.log else {}) | ({"step": self.step} if self.step is not None else {})


@dataclass(frozen=True)
class Choices:
    """Some values without an order.

    Attributes:
        values: plain values, each once.
    """

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Returns the values that are checked against the schema."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Returns whether a value is among the choices; `1` is not `true`."""
        return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.values)

    def to_dict(self) -> list[Any]:
        """Returns the choices as they are written in a space file."""
        return list(self.values)


Parameter: TypeAlias = Range | Choices


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        parameters: the values to try, by dotted key.
    """

    parameters: Mapping[str, Parameter]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Returns whether the values of a configuration, by dotted key, lie in the space."""
        return all(parameter.holds(values.get(key)) for key, parameter in self.parameters.items())

    def of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the searched ones of a configuration's values."""
        return {key: values.get(key) for key in self.parameters}

    def to_dict(self) -> dict[str, Any]:
        """Returns the space as it is written in a file."""
        return {key: parameter.to_dict() for key, parameter in self.parameters.items()}


def read_space(path: Path, configure: Configure) -> Space:
    """Reads a space file.

    Raises:
        ConfigError: with one line per problem.
    """
    from kcv.config.yaml12 import read_mapping

    return check_space(read_mapping(path), configure, str(path))


def check_space(values: Mapping[Any, Any], configure: Configure, origin: str | None = None) -> Space:
    """Builds a space from the values of a file, and checks them against the schema.

    Args:
        values: ranges and choices by key: dotted, in a section, or a short flag.
        configure: see `Configure`.
        origin: the file, for messages.

    Raises:
        ConfigError: with one line per problem.
    """
    spec = specify(Config, SHORT_FLAGS)
    problems: list[str] = []
    parameters: dict[str, Parameter] = {}
    pairs = _spread(spec, values)
    if not pairs:
        problems.append("names no key; a space needs one, such as optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}.")
    if len(pairs) > MOST_KEYS:
        raise ConfigError([f"names {len(pairs):,} keys, allowed: at most {MOST_KEYS}."], origin)
    for typed, value in pairs:
        try:
            key = _key(spec, typed)
            if key in parameters:
                raise ConfigError([f"{key}: given twice; give it once."])
            parameters[key] = _parameter(spec, key, value)
            problems += _schema_problems(key, parameters[key], configure)
        except ConfigError as error:
            problems += error.problems
    problems += _conditions(parameters, configure) if not problems else []
    if problems:
        raise ConfigError(problems, origin)
    return Space(parameters)


def default_space(config: Config, configure: Configure) -> Space:
    """Returns the space that is searched if the user gives none; the configuration's own values lie in it.

    The learning rate by factors of 100 below and 10 above the configured one, the weight decay, label smoothing,
    augmentation as a whole, and for networks with a head of their own the dropout before the logits. Values that do not
    fit the configuration are left out.
    """
    flat = config.flatten()
    lr, decay, smoothing = flat["optim.lr"], flat["optim.weight_decay"], flat["optim.label_smoothing"]
    wanted: dict[str, Any] = {
        "optim.lr": {"low": lr / 100, "high": min(10 * lr, 100.0), "log": True},
        "optim.label_smoothing": {"low": 0.0, "high": max(0.2, smoothing)},
    }
    if decay > 0:
        wanted["optim.weight_decay"] = {"low": decay / 30, "high": min(10 * decay, 100.0), "log": True}
    policies = ["none", "light", "strong"]
    untouched = not any(key.startswith("augment.") and key != "augment.policy" for key in config.given())
    if untouched or flat["augment.policy"] != "none":
        wanted["augment.policy"] = list(dict.fromkeys([flat["augment.policy"], *policies]))
    network = registry.find(flat["model.name"])
    if network is not None:
        own = flat["model.dropout"]
        others = [
            value for value in (0.0, 0.2, 0.4) if own is not None or value != network.dropout
        ]  # null stands for it
        wanted["model.dropout"] = list(dict.fromkeys([own, *others]))
    parameters: dict[str, Parameter] = {}
    for key, value in wanted.items():
        try:
            parameters |= check_space({key: value}, configure).parameters
        except ConfigError:
            continue
    return Space(parameters)


def _spread(spec: Specification, values: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """Returns keys with their values; those in a section get its name before them."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if name in spec.sections and isinstance(value, Mapping):
            pairs += [(f"{name}.{leaf}", inner) for leaf, inner in value.items()]
        else:
            pairs.append((str(name), value))
    return pairs


def _key(spec: Specification, typed: str) -> str:
    """Returns the dotted key of a name. Raises ConfigError if there is none, or if it cannot be searched."""
    key = spec.resolve(typed)
    if key is None:
        suggestion = spec.suggest(typed)
        hint = f" Did you mean {suggestion!r}?" if suggestion else " See kcv train --help for the keys."
        raise ConfigError([f"{show(typed)[1:-1]}: unknown key.{hint}"])
    section, _, leaf = key.rpartition(".")
    reason = _FIXED.get(key)
    if section == "tracking":
        reason = "it does not change the model"
    elif section == "data" and leaf not in _DATA_SEARCHED:
        reason = "all trials must be compared on the same images"
    if reason is not None:
        raise ConfigError([f"{key}: cannot be searched, because {reason}."])
    return key


def _parameter(spec: Specification, key: str, value: Any) -> Parameter:
    """Returns a range or choices. Raises ConfigError with one line if the value is neither."""
    if isinstance(value, list):
        return _choices(key, value)
    if not isinstance(value, Mapping) or not {"low", "high"} <= value.keys():
        forms = "a range such as {low: 1, high: 10}, or a list of choices such as [1, 2]"
        raise ConfigError([f"{key}: received {show(value)}, allowed: {forms}."])
    if unknown := [name for name in value if name not in _RANGE_FIELDS]:
        raise ConfigError([f"{key}: received {show(unknown[0])}, allowed in a range: {', '.join(_RANGE_FIELDS)}."])
    default = spec.keys[key].default
    if spec.keys[key].textual or isinstance(default, bool):
        raise ConfigError([f"{key}: received a range, allowed: a list of choices, as its values are no numbers."])
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    for name, number in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= _LARGEST:
            raise ConfigError([f"{key}: {name}: received {show(number)}, allowed: a number."])
    if not isinstance(log, bool):
        raise ConfigError([f"{key}: log: received {show(log)}, allowed: true or false."])
    whole = spec.keys[key].allowed.startswith("a whole number")
    return _range(key, Range(low, high, log, step, whole))


def _range(key: str, found: Range) -> Range:
    """Returns the range if it makes sense. Raises ConfigError with one line otherwise."""
    low, high, step = found.low, found.high, found.step
    if low >= high:
        raise ConfigError([f"{key}: low is {low:g} and high is {high:g}, allowed: low less than high."])
    if found.whole and not all(isinstance(number, int) for number in (low, high, 1 if step is None else step)):
        raise ConfigError([f"{key}: its values are whole numbers; give whole numbers for low, high and step."])
    if found.log and low <= 0:
        raise ConfigError([f"{key}: low: received {low:g}, allowed: greater than 0, because log is true."])
    if step is not None and found.log:
        raise ConfigError([f"{key}: step: allowed without log only."])
    if step is not None and not 0 < step <= high - low:
        raise ConfigError([f"{key}: step: received {step:g}, allowed: greater than 0 and at most {high - low:g}."])
    if step is not None and not found.holds(high):
        raise ConfigError([f"{key}: high: received {high:g}, allowed: low and a multiple of step."])
    if found.whole:
        return found
    return Range(float(low), float(high), found.log, None if step is None else float(step))


def _choices(key: str, values: list[Any]) -> Choices:
    """Returns choices. Raises ConfigError with one line if they are not plain values, or not different ones."""
    if not 2 <= len(values) <= MOST_CHOICES:
        raise ConfigError([f"{key}: has {len(values)} choices, allowed: 2 to {MOST_CHOICES}."])
    for value in values:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ConfigError([f"{key}: received the choice {show(value)}, allowed: text, numbers, true, false, null."])
    seen: list[tuple[bool, Any]] = []
    for value in values:
        if (isinstance(value, bool), value) in seen:
            raise ConfigError([f"{key}: has the choice {show(value)} twice."])
        seen.append((isinstance(value, bool), value))
    return Choices(tuple(values))


def _schema_problems(key: str, parameter: Parameter, configure: Configure) -> list[str]:
    """Returns a line for each end and each choice that the schema does not allow."""
    problems = []
    for value in parameter.ends():
        try:
            configure({key: value})
        except ConfigError as error:
            problems += [line if line.startswith(f"{key}:") else f"{key}={show(value)}: {line}" for line in
                         error.problems]  # fmt: skip
        except KcvError as error:
            problems.append(f"{key}={show(value)}: {error}")
    return list(dict.fromkeys(problems))


def _conditions(parameters: Mapping[str, Parameter], configure: Configure) -> list[str]:
    """Returns a line for each pair of keys of which some values contradict each other, or have no effect together."""
    problems = []
    for (first, one), (second, other) in islice(_pairs(parameters), _MOST_PAIRS):
        try:
            configure({first: one, second: other})
        except ConfigError as error:
            problems.append(f"{first}={show(one)} with {second}={show(other)}: {error.problems[0]}")
    if "optim.momentum" in parameters and not _may_be(parameters, configure, "optim.name", "sgd"):
        problems.append("optim.momentum: has no effect, because optim.name is adamw.")
    if "optim.focal_gamma" in parameters and not _may_be(parameters, configure, "optim.loss", "focal"):
        problems.append("optim.focal_gamma: has no effect, because optim.loss is cross_entropy.")
    return problems[:20]


def _pairs(parameters: Mapping[str, Parameter]) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    """Yields all combinations of values of two keys."""
    for first, second in combinations(parameters, 2):
        for one, other in product(parameters[first].ends(), parameters[second].ends()):
            yield (first, one), (second, other)


def _may_be(parameters: Mapping[str, Parameter], configure: Configure, key: str, value: Any) -> bool:
    """Returns whether a key can have a value in some trial."""
    if key in parameters:
        return parameters[key].holds(value)
    return bool(configure({}).flatten()[key] == value)
