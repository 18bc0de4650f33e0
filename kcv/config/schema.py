"""The typed configuration of a training run: every key, its meaning, its default and what is allowed.

The schema is strict (no silent conversions), frozen and closed (an unknown key is an error). `Config.load` reports
every problem of a file and its overrides at once, before any data is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kcv.config import overrides as _overrides
from kcv.config import yaml12
from kcv.config.keys import none_as_null, specify
from kcv.errors import ConfigError

ModelName: TypeAlias = Literal["custom_cnn"]
MODEL_NAMES: tuple[str, ...] = get_args(ModelName)

SHORT_FLAGS: Mapping[str, str] = {
    "model": "model.name",
    "data": "data.source",
    "epochs": "train.epochs",
    "lr": "optim.lr",
    "batch_size": "data.batch_size",
    "tracking": "tracking.uri",
}
"""What people type -> the key that it stands for. Top-level keys (seed, precision ...) are their own short form."""

MIN_IMAGE_SIZE = 16
"""The smallest side that every model takes, pixels: below it, pooling leaves nothing."""

_MAX_SEED = 2**32 - 1  # the largest that numpy and scikit-learn take

Precision: TypeAlias = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
ResizeMode: TypeAlias = Literal["squash", "crop", "letterbox"]
# Strict mode takes only a Path for a Path; YAML and the command line can only bring text.
TextPath: TypeAlias = Annotated[
    Path, BeforeValidator(lambda value: Path(value) if isinstance(value, str) and value.strip() else value)
]


class Section(BaseModel):
    """What all parts of the configuration share: frozen, strict, closed, no infinities."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _none_as_null(cls, values: Any) -> Any:
        """Reads `none` as null where a key is a number or null: people write it beside `flip: none`."""
        return none_as_null(cls, values)


class DataConfig(Section):
    """Which pictures, at which size, split and fed how."""

    source: str = Field("digits", min_length=1, description="cifar10, digits, or the path of your own pictures")
    image_size: int | None = Field(
        None,
        ge=MIN_IMAGE_SIZE,
        le=1024,
        description="side of the model's square input, px; null: the data's own size, or 224",
    )
    resize: ResizeMode = Field("squash", description="how a picture becomes square: stretched, cut or padded")
    val_fraction: float = Field(
        0.1, gt=0, le=0.5, description="part of the training pictures that chooses the best weights"
    )
    test_fraction: float = Field(
        0.1, ge=0, le=0.5, description="part held out for the test where the data brings no test split; 0: none"
    )
    split_seed: int = Field(42, ge=0, le=_MAX_SEED, description="seed of the splits, apart from the run's seed")
    batch_size: int = Field(128, ge=1, le=65536, description="pictures in one optimizer step")
    workers: int | None = Field(
        None, ge=0, le=64, description="processes that decode pictures when they stream from disk; null: cores - 1"
    )
    memory_budget_mb: int = Field(
        2048, ge=0, description="pictures up to this many MB stay in memory, more stream from disk; 0: always stream"
    )


class AugmentConfig(Section):
    """Random changes to training pictures, drawn anew for each picture and epoch. All off by default."""

    crop_padding: int = Field(0, ge=0, le=512, description="shift by up to this many px (padded random crop)")
    flip: Literal["none", "random", "alternating"] = Field(
        "none", description="horizontal mirror: never, by chance, or every other epoch"
    )
    color_jitter: float = Field(0.0, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest hue shift, as a part of the colour circle")
    cutout: int = Field(0, ge=0, le=1024, description="side of the square that is blanked, px")
    random_erasing: float = Field(0.0, ge=0, le=1, description="probability of erasing a random rectangle")
    mixup: float = Field(0.0, ge=0, le=10, description="Beta parameter of blending pictures in pairs; 0: off")
    cutmix: float = Field(0.0, ge=0, le=10, description="Beta parameter of pasting a box from another picture; 0: off")


class ModelConfig(Section):
    """Which network."""

    name: ModelName = Field("custom_cnn", description="the network")
    dropout: float = Field(0.0, ge=0, lt=1, description="part of the features dropped before the classifier")


class OptimConfig(Section):
    """How the weights are moved."""

    name: Literal["adamw"] = Field("adamw", description="the optimizer")
    lr: float = Field(2e-3, gt=0, le=100, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, le=100, description="decoupled weight decay")
    schedule: Literal["one_cycle", "cosine", "constant"] = Field(
        "one_cycle", description="course of the learning rate over the steps"
    )
    warmup_epochs: float = Field(
        1.0, ge=0, description="epochs of rising learning rate; not given: 1, at most a quarter of the run"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="probability spread over the other classes")


class TrainConfig(Section):
    """How long, and which weights are kept."""

    epochs: int = Field(20, ge=1, le=1_000_000, description="passes over the training pictures")
    monitor: Literal["val_accuracy", "val_loss"] = Field("val_accuracy", description="what chooses the best weights")
    patience: int | None = Field(None, ge=1, description="stop after this many epochs without a better monitor")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the moving average of the weights; null: off")


class TrackingConfig(Section):
    """Where MLflow keeps the run."""

    uri: str | None = Field(
        None, min_length=1, description="MLflow store; null: mlflow.db (SQLite) in the working folder; none: off"
    )
    experiment: str = Field("kcv", min_length=1, description="MLflow experiment the run belongs to")


class Config(Section):
    """Everything that decides a training run."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
        description="name of the run and of its folder below runs/",
        json_schema_extra={"allowed": "letters, digits, '.', '_' and '-', at most 100"},
    )
    seed: int = Field(42, ge=0, le=_MAX_SEED, description="seed of weights, order and augmentation")
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
        """Keeps the default warm-up below a short run, so that `--epochs=1` just works."""
        if not isinstance(values, Mapping):
            return values
        train, optim = values.get("train", {}), values.get("optim", {})
        if not isinstance(train, Mapping) or not isinstance(optim, Mapping) or "warmup_epochs" in optim:
            return values
        epochs = train.get("epochs")
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            return values
        return {**values, "optim": {**optim, "warmup_epochs": min(1.0, epochs / 4)}}

    @model_validator(mode="after")
    def _check_choices(self) -> Config:
        problems = _cross_problems(self.flatten())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def load(cls, path: str | Path | None = None, **overrides: Any) -> Config:
        """Reads a YAML file (or only the defaults) and puts overrides over it.

        Args:
            path: a YAML file of nested sections, or None for the defaults.
            overrides: by dotted key (`"optim.lr"`), by `optim__lr`, or by short flag (`lr`). A value may be text as
                typed on a command line: it is then read for the kind of its key.

        Raises:
            ConfigError: with every problem found, one line each.
        """
        origin = None if path is None else str(path)
        values = {} if path is None else yaml12.read_mapping(Path(path))
        return cls._build(values, overrides, origin)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str | None = None) -> Config:
        """Builds a configuration from nested sections, such as a model file's copy of its own.

        Raises:
            ConfigError: with every problem found, one line each.
        """
        return cls._build(values, {}, origin)

    @classmethod
    def _build(cls, values: Mapping[str, Any], overrides: Mapping[str, Any], origin: str | None) -> Config:
        spec = specify(cls, SHORT_FLAGS)
        merged, problems, overridden = _overrides.merge(spec, values, overrides)
        try:
            config = cls.model_validate(merged)
        except ValidationError as error:
            found = _overrides.explain(spec, error) + _cross_problems(_overrides.flatten(merged))
            for line in dict.fromkeys(found):
                from_file = origin is not None and line.partition(":")[0] not in overridden
                problems.append(f"{origin}: {line}" if from_file else line)
        if problems:
            raise ConfigError(problems)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain values (text, numbers, None), fit for JSON and YAML."""
        return self.model_dump(mode="json")

    def flatten(self) -> dict[str, Any]:
        """Returns plain values by dotted key, in the order of the schema."""
        return _overrides.flatten(self.to_dict())

    def to_yaml(self) -> str:
        """Returns YAML that `Config.load` reads back to an equal configuration."""
        return yaml12.dump(self.to_dict())


def _cross_problems(flat: Mapping[str, Any]) -> list[str]:
    """Returns one line for each rule that ties keys together and is broken. Values may be of a wrong type."""
    problems = []
    warmup, epochs = flat.get("optim.warmup_epochs"), flat.get("train.epochs", 20)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (warmup, epochs))
    if numbers and epochs >= 1 and warmup >= epochs:
        limit = f"less than train.epochs, which is {epochs}"
        problems.append(f"optim.warmup_epochs: received {warmup:g}, allowed: {limit}.")
    return problems
