"""The typed configuration of a training run.

The schema is strict (no silent conversions), frozen and closed (an unknown key is an error). `Config.load` reports
all problems in a file and its overrides at once, before any data is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import Field, ValidationError, model_validator

from kcv.common.parameters import Device, Precision
from kcv.config import overrides as _overrides
from kcv.config.fitting import fit_file
from kcv.config.keys import specify
from kcv.config.layers import layer_problems, mixes
from kcv.config.sections import (
    MAX_SEED,
    SCALABLE,
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    Section,
    TextPath,
    TrackingConfig,
    TrainConfig,
)
from kcv.data.fold import PATTERN, Fold
from kcv.errors import ConfigError, first_line
from kcv.models import registry
from kcv.models.own import AUTO, OwnName

SHORT_FLAGS: Mapping[str, str] = {
    "model": "model.name",
    "data": "data.source",
    "epochs": "train.epochs",
    "minutes": "train.minutes",
    "lr": "optim.lr",
    "batch_size": "data.batch_size",
    "tracking": "tracking.uri",
    "calibrate": "train.calibrate",
    "abstain_precision": "train.abstain_precision",
    "coverage": "train.coverage",
    "teacher": "train.teacher",
}
"""Short flag -> dotted key. Top-level keys (seed, precision ...) need no short flag."""


_MOST_EPOCHS = 1_000_000

_AUGMENT_DEFAULTS = {
    key: field.get_default(call_default_factory=True) for key, field in AugmentConfig.model_fields.items()
}


class Config(Section):
    """All settings of a training run."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
        description="name of the run and of its folder below runs/",
        json_schema_extra={"allowed": "letters, digits, '.', '_' and '-', at most 100"},
    )
    seed: int = Field(42, ge=0, le=MAX_SEED, description="seed of weights, order and augmentation")
    output_dir: TextPath | None = Field(None, description="folder of the run; null: runs/<name>/<time>")
    device: Device = Field("auto", description="where to compute")
    precision: Precision = Field("auto", description="number format of the computation; weights stay float32")
    data: DataConfig = Field(default_factory=DataConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="before")
    @classmethod
    def _fit_warmup(cls, values: Any) -> Any:
        """Shortens the default warm-up of a short run, so that `--epochs=1` works without further flags."""
        if not isinstance(values, Mapping):
            return values
        train, optim = values.get("train", {}), values.get("optim", {})
        if not isinstance(train, Mapping) or not isinstance(optim, Mapping):
            return values
        if optim.get("warmup_epochs") is not None:
            return values
        if optim.get("warmup_fraction") is not None:
            return {**values, "optim": {**optim, "warmup_epochs": None}}
        epochs = train.get("epochs", TrainConfig.model_fields["epochs"].default)
        if not isinstance(epochs, int) or isinstance(epochs, bool) or not 1 <= epochs <= _MOST_EPOCHS:
            return values
        return {**values, "optim": {**optim, "warmup_epochs": _usual_warmup(epochs)}}

    @model_validator(mode="after")
    def _check_choices(self) -> Config:
        # `flatten` would turn an infinity in the layers into null and hide it from the check.
        problems = _cross_problems({**self.flatten(), "augment.layers": self.augment.layers})
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def load(cls, path: str | Path | None = None, **overrides: Any) -> Config:
        """Reads a YAML file, or starts from the defaults, and applies overrides.

        Args:
            path: a YAML file of nested sections, or None for the defaults.
            overrides: values by dotted key (`"optim.lr"`), by `optim__lr`, or by short flag (`lr`). A value may be text
                as typed on a command line; it is then parsed according to the type of its key.

        Raises:
            ConfigError: lists every problem found, one per line.

        Example:
            config = Config.load("config.yaml", lr=1e-3, model__width=0.5)
        """
        if path is None:
            return cls._build({}, overrides, None)
        from kcv.config.yaml12 import read_mapping

        return cls._build(read_mapping(Path(path)), overrides, str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str | None = None) -> Config:
        """Builds a configuration from nested sections, such as the copy in a model file.

        Raises:
            ConfigError: lists every problem found, one per line.
        """
        return cls._build(values, {}, origin)

    @classmethod
    def of_values(cls, values: Mapping[str, Any], overrides: Mapping[str, Any], origin: str | None = None) -> Config:
        """Builds a configuration as `load` does, from the values of a file that was read before.

        Args:
            values: the content of the file.
            overrides: see `load`.
            origin: the file, for messages.

        Raises:
            ConfigError: lists every problem found, one per line.
        """
        return cls._build(values, overrides, origin)

    @classmethod
    def _build(cls, values: Mapping[str, Any], overrides: Mapping[str, Any], origin: str | None) -> Config:
        spec = specify(cls, SHORT_FLAGS)
        try:
            merged, problems, overridden = _overrides.merge(
                spec, values, overrides, lambda file, typed: fit_file(file, typed, _AUGMENT_DEFAULTS)
            )
            problems += _one_length(overridden)
            try:
                config = cls.model_validate(merged)
            except ValidationError as error:
                found = _overrides.explain(spec, error) + _cross_problems(_overrides.flatten(merged))
                for line in found:
                    from_file = origin is not None and line.partition(":")[0] not in overridden
                    problems.append(f"{origin}: {line}" if from_file else line)
        except Exception as error:  # a file may contain values that validation does not expect
            reason = "is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
            raise ConfigError([f"cannot be used: {reason}."], origin) from error
        if problems:
            raise ConfigError(_overrides.told(problems))
        return config

    def given(self) -> dict[str, Any]:
        """Returns what a file or the caller gave, by dotted key: no defaults, and not a `model.name` of `auto`."""
        given = _overrides.flatten(self.model_dump(exclude_unset=True))
        left_open = [("model.name", AUTO), ("optim.warmup_epochs", _usual_warmup(self.train.epochs))]
        if self.optim.warmup_fraction is not None:
            left_open.append(("optim.warmup_epochs", None))
        return {key: value for key, value in given.items() if (key, value) not in left_open}

    def completed(self, values: Mapping[str, Any]) -> Config:
        """Returns this configuration with values, by dotted key, for keys that were not given.

        Raises:
            ConfigError: a value is not valid, or contradicts one that was given.
        """
        return self._build(_overrides.nest({**values, **self.given()}), {}, None)

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values (text, numbers, None) that JSON and YAML can store."""
        return self.model_dump(mode="json")

    def flatten(self) -> dict[str, Any]:
        """Returns plain values by dotted key, in schema order."""
        return _overrides.flatten(self.to_dict())

    def to_yaml(self) -> str:
        """Returns YAML from which `Config.load` builds an equal configuration."""
        from kcv.config.yaml12 import dump

        return dump(self.to_dict())


def _usual_warmup(epochs: int) -> float:
    """Returns the warm-up of a run, in epochs, if none is given."""
    return min(1.0, epochs / 4)


def _cross_problems(flat: Mapping[str, Any]) -> list[str]:
    """Returns one line per violated rule that involves several keys. Values may have the wrong type."""
    problems = []
    warmup, epochs = flat.get("optim.warmup_epochs"), flat.get("train.epochs", 20)
    if _is_number(warmup) and _is_number(epochs) and epochs >= 1 and warmup >= epochs:
        limit = f"less than train.epochs, which is {_overrides.show(epochs)}"
        problems.append(f"optim.warmup_epochs: received {_number(warmup)}, allowed: {limit}.")
    if warmup is not None and (fraction := flat.get("optim.warmup_fraction")) is not None:
        given = f"received {_overrides.show(fraction)} beside optim.warmup_epochs"
        problems.append(f"optim.warmup_fraction: {given}, allowed: one of the two.")
    problems += _fold_problems(flat) + _tracking_problems(flat) + _imbalance_problems(flat) + _model_problems(flat)
    problems += _teacher_problems(flat)
    return problems + layer_problems(flat, _AUGMENT_DEFAULTS)


def _fold_problems(flat: Mapping[str, Any]) -> list[str]:
    """Like `_cross_problems`, for `data.fold`: its number must be one of the folds, and validation needs a fold."""
    fold, validates = flat.get("data.fold"), flat.get("data.fold_split") == "val"
    if validates and fold is None:
        return ["data.fold_split: received 'val', allowed: test, unless data.fold names the fold that validates."]
    if not isinstance(fold, str) or not re.fullmatch(PATTERN, fold):
        return []
    try:
        number = Fold.parse(fold).number
    except ValueError:
        return [f"data.fold: received {fold!r}, allowed: 0/K to K/K, where K is 2 or more."]
    if validates and not number:
        return [f"data.fold: received {fold!r}, allowed with data.fold_split=val: 1/K to K/K."]
    return []


def _tracking_problems(flat: Mapping[str, Any]) -> list[str]:
    """Like `_cross_problems`, for the section `tracking`."""
    alias = flat.get("tracking.alias")
    if alias is None:
        return []
    if flat.get("tracking.register") is None:
        return ["tracking.alias: needs tracking.register=NAME, the model that the alias is of."]
    if isinstance(alias, str) and re.fullmatch(r"latest|[vV][0-9]+", alias):  # MLflow reserves them
        return [f"tracking.alias: received {alias!r}, allowed: a name other than latest, v1, v2 ..."]
    return []


def _imbalance_problems(flat: Mapping[str, Any]) -> list[str]:
    """Like `_cross_problems`, for what is done about classes of different sizes."""
    problems = []
    weights, sampling = flat.get("data.class_weights", "none"), flat.get("data.sampling", "none")
    both = [value for value in (weights, sampling) if value in ("balanced", "sqrt")]
    if len(both) == 2 and "balanced" in both:
        problems.append(
            f"data.sampling: received {sampling!r}, allowed: none, because data.class_weights is {weights!r} and both "
            "do the same; rare classes would count twice."
        )
    gamma, default = flat.get("optim.focal_gamma"), OptimConfig.model_fields["focal_gamma"].default
    if flat.get("optim.loss", "cross_entropy") == "cross_entropy" and _is_number(gamma) and gamma != default:
        problems.append(
            f"optim.focal_gamma: received {_number(gamma)}, allowed: {default:g}, because optim.loss is "
            "cross_entropy; set optim.loss to focal."
        )
    return problems


def _teacher_problems(flat: Mapping[str, Any]) -> list[str]:
    """Like `_cross_problems`, for distillation: the teacher needs images, and a frozen backbone has features."""
    if flat.get("train.teacher") is None:
        return [
            f"optim.{key}: received {_number(value)}, allowed: {default:g}, because there is no train.teacher."
            for key in ("distill_temperature", "distill_weight")
            if _is_number(value := flat.get(f"optim.{key}"))
            and value != (default := OptimConfig.model_fields[key].default)
        ]
    problems = []
    if flat.get("model.unfreeze_after") or flat.get("model.mode") == "feature_extraction":
        problems.append("train.teacher: allowed where all layers are trained; set model.mode and model.unfreeze_after.")
    if flat.get("train.minutes") is not None:
        problems.append("train.teacher: allowed with train.epochs only, as speeds are measured without it.")
    return problems


def _one_length(typed: set[str]) -> list[str]:
    """Returns one line if the length of the run is typed twice; in a file, `train.epochs` holds beside the minutes."""
    if {"train.minutes", "train.epochs"} <= typed:
        return ["train.minutes: given beside train.epochs; give one of them: epochs follow from the minutes."]
    return []


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    """Formats a number briefly; `:g` fails for an integer with hundreds of digits, so large values are cut instead."""
    return f"{value:g}" if abs(value) <= _MOST_EPOCHS else _overrides.show(value)


def _own_model_problems(flat: Mapping[str, Any], network: str) -> list[str]:
    """Like `_cross_problems`, for a model of the user's own: the section `model` describes kcv's networks alone."""
    problems = []
    for key, field in ModelConfig.model_fields.items():
        value = flat.get(f"model.{key}", field.default)
        if key not in ("name", "weights") and value != field.default:
            problems.append(f"model.{key}: is for kcv's own networks, not for {network}.")
    if flat.get("model.weights", "auto") == "imagenet":
        problems.append(f"model.weights: received 'imagenet', allowed: auto, none, or a .keras file, for {network}.")
    for key in ("backbone_lr_scale", "layer_decay"):
        if flat.get(f"optim.{key}", 1.0) != 1:
            problems.append(f"optim.{key}: is for kcv's own networks, not for {network}.")
    return problems


def _network_problems(flat: Mapping[str, Any], freezes: bool) -> list[str]:
    """Like `_cross_problems`, for the features of the chosen network (ImageNet weights, width)."""
    problems = []
    network = registry.find(flat.get("model.name"))
    if network is not None and network.imagenet is None:
        if flat.get("model.weights") == "imagenet":
            problems.append(f"model.weights: received 'imagenet', allowed: auto, none, or a file, for {network.name}.")
        if freezes and flat.get("model.weights", "auto") == "auto":
            problems.append(
                f"model.weights: received 'auto', allowed: a file (or none), to freeze {network.name}, "
                "which has no ImageNet weights."
            )
    if network is not None and not network.scalable:
        width = flat.get("model.width", 1.0)
        if isinstance(width, int | float) and width != 1:
            problems.append(f"model.width: received {_number(width)}, allowed: 1, except for {SCALABLE}.")
    return problems


def _model_problems(flat: Mapping[str, Any]) -> list[str]:
    """Like `_cross_problems`, for the section `model`."""
    if (own := OwnName.find(flat.get("model.name"))) is not None:
        return _own_model_problems(flat, str(own))
    problems = []
    frozen, epochs = flat.get("model.unfreeze_after", 0), flat.get("train.epochs", 20)
    show = _overrides.show
    if isinstance(frozen, int) and isinstance(epochs, int) and frozen >= max(epochs, 1):
        limit = f"less than train.epochs, which is {show(epochs)}"
        problems.append(f"model.unfreeze_after: received {show(frozen)}, allowed: {limit}.")
    if frozen and flat.get("model.mode") == "feature_extraction":
        problems.append(
            f"model.unfreeze_after: received {show(frozen)}, allowed: 0, because model.mode never unfreezes."
        )
    freezes = bool(frozen) or flat.get("model.mode") == "feature_extraction"
    problems += _network_problems(flat, freezes)
    if (views := flat.get("model.feature_views")) and not freezes:
        problems.append(f"model.feature_views: received {show(views)}, allowed: null, because nothing is frozen.")
    # A first stage on kept features goes without mixup and cutmix, and the second has them.
    mixed = not frozen and (flat.get("augment.mixup") or flat.get("augment.cutmix"))
    if flat.get("model.feature_views") and (mixed or mixes(flat.get("augment.layers"))):
        problems.append("model.feature_views: features of mixed images cannot be kept; turn mixup and cutmix off.")
    return problems
