"""The sections of a configuration: every key with its description, default and allowed values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kcv.common.parameters import Device, Precision
from kcv.config.class_weights import ALLOWED_WEIGHTS, WEIGHTINGS, as_class_weights
from kcv.config.keys import none_as_null
from kcv.config.layers import as_entries
from kcv.config.policies import with_policy
from kcv.data import sources
from kcv.data.fold import PATTERN
from kcv.models import registry
from kcv.models.own import AUTO, FORMS, network_or_own

MODEL_NAMES: tuple[str, ...] = registry.names()
if TYPE_CHECKING:
    ClassWeights: TypeAlias = str | dict[str, float]
else:
    ClassWeights = Annotated[Any, BeforeValidator(as_class_weights)]

SCALABLE = ", ".join(network.name for network in registry.networks() if network.scalable)

MIN_IMAGE_SIZE = 16
"""The smallest image side of any model, in pixels; in a smaller image, pooling leaves nothing."""

MAX_SEED = 2**32 - 1  # the largest that NumPy and scikit-learn accept

PRECISIONS: tuple[str, ...] = get_args(Precision)
DEVICES: tuple[str, ...] = get_args(Device)
ResizeMode: TypeAlias = Literal["squash", "crop", "letterbox"]
# Strict mode accepts only a Path for a Path, but YAML and the command line supply text.
TextPath: TypeAlias = Annotated[
    Path,
    BeforeValidator(
        lambda value: Path(value) if isinstance(value, str) and value.strip() and "\0" not in value else value
    ),
]


class Section(BaseModel):
    """Base class of the configuration and its sections: frozen, strict, no unknown keys, no infinities."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,  # help needs the fields, but no validators
    )

    @model_validator(mode="before")
    @classmethod
    def _none_as_null(cls, values: Any) -> Any:
        """Reads `none` as null for keys that are a number or null; users write it by analogy with `flip: none`."""
        return none_as_null(cls, values)


class DataConfig(Section):
    """The images, their size, the splits and the batches."""

    source: str = Field(
        sources.default(), min_length=1, description=sources.described("the path or URL of your own images")
    )
    image_column: str | None = Field(
        None, min_length=1, description="column of the images, or of their paths; null: by its name or type"
    )
    label_column: str | None = Field(None, min_length=1, description="column of the labels; null: by its name or type")
    config: str | None = Field(
        None, min_length=1, description="configuration to read, where a repository or folder has several"
    )
    image_folder: str | None = Field(
        None, min_length=1, description="folder that the paths in a label file start from; null: that of the file"
    )
    image_size: int | None = Field(
        None,
        ge=MIN_IMAGE_SIZE,
        le=1024,
        description="side of the model's square input, px; null: the data's own size, or 224",
    )
    resize: ResizeMode = Field("squash", description="how an image becomes square: stretched, cut or padded")
    val_fraction: float = Field(0.1, gt=0, le=0.5, description="fraction of the training set held out for validation")
    test_fraction: float = Field(
        0.1, ge=0, le=0.5, description="fraction held out for testing if the data has no test split; 0: none"
    )
    fold: str | None = Field(
        None,
        pattern=PATTERN,
        description="fold that is held out as the test split, of how many: 1/5 to 5/5; 0/5: none, for a final model",
        json_schema_extra={"allowed": "a fold and the number of folds, such as 2/5"},
    )
    fold_split: Literal["test", "val"] = Field(
        "test",
        description="which split a fold is: test; or val, with the test split that a run without folds has, as in "
        "`tune --folds`",
    )
    split_seed: int = Field(42, ge=0, le=MAX_SEED, description="seed of the splits, separate from the run's seed")
    batch_size: int = Field(128, ge=1, le=65536, description="images per optimizer step")
    sampling: Literal["none", "balanced", "sqrt"] = Field(
        "none",
        description="how often images of each class are drawn in training: as they are, all classes equally often, or "
        "in proportion to the square root of their sizes",
    )
    class_weights: ClassWeights = Field(
        "none",
        description="weights of the classes in the loss: equal, inverse to their sizes, inverse to the square root of "
        "their sizes, or by name, as in '{cat: 3, dog: 0.5}'",
        json_schema_extra={"choices": list(WEIGHTINGS), "allowed": ALLOWED_WEIGHTS},
    )
    workers: int | None = Field(
        None, ge=0, le=64, description="processes that decode images streamed from disk; null: cores - 1"
    )
    shuffle_buffer_mb: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="encoded images in the shuffle buffer for Parquet files larger than memory",
    )
    memory_budget_mb: int = Field(
        2048, ge=0, description="keep image sets up to this many MB in memory, stream larger ones; 0: always stream"
    )


class AugmentConfig(Section):
    """Random changes to training images, drawn again for each image and epoch. All off by default."""

    policy: Literal["none", "light", "photos", "strong", "randaugment", "trivialaugment", "augmix"] = Field(
        "none", description="a whole set of changes in one word; the keys below that are given replace its own"
    )
    library: Literal["kcv", "keras", "keras_cv"] = Field(
        "kcv",
        description="kcv's own augmentation (the keys below), or layers of Keras or keras-cv (the extra kcv[kerascv])",
    )
    layers: Annotated[list[Any], BeforeValidator(as_entries)] = Field(
        default_factory=list,
        description="layers with their arguments, in order, if library is keras or keras_cv",
        json_schema_extra={"allowed": "a list of layers, such as [{name: RandAugment, magnitude: 0.3}, CutMix]"},
    )
    resized_crop: float = Field(
        1.0, gt=0, le=1, description="smallest area of a random crop that is enlarged to the whole image; 1: off"
    )
    crop_padding: int = Field(0, ge=0, le=512, description="shift by up to this many px (padded random crop)")
    flip: Literal["none", "random", "alternating"] = Field(
        "none", description="horizontal flip: never, at random, or every other epoch"
    )
    vertical_flip: bool = Field(False, description="flip half of the images upside down, too")
    rotation: float = Field(0.0, ge=0, le=180, description="rotate by up to this angle either way, degrees")
    translate: float = Field(0.0, ge=0, le=1, description="shift by up to this fraction of the side; the rest mirrors")
    scale: float = Field(0.0, ge=0, lt=1, description="zoom by a factor of 1 - scale to 1 + scale")
    shear: float = Field(0.0, ge=0, le=60, description="shear by up to this angle along either axis, degrees")
    perspective: float = Field(
        0.0, ge=0, le=0.4, description="perspective: corners move inwards by up to this fraction of half the side"
    )
    auto_augment: Literal["none", "randaugment", "trivialaugment", "augmix"] = Field(
        "none", description="operations chosen at random for each image"
    )
    num_ops: int = Field(2, ge=1, le=14, description="operations per image of randaugment")
    magnitude: int = Field(9, ge=0, le=30, description="strength of randaugment")
    color_jitter: float = Field(0.0, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    hue: float = Field(0.0, ge=0, le=0.5, description="maximum hue shift, as a fraction of the colour circle")
    grayscale: float = Field(0.0, ge=0, le=1, description="probability of losing all colour")
    blur: float = Field(
        0.0, ge=0, le=1, description="probability of Gaussian blur, with a deviation of up to 2 px in 224"
    )
    cutout: int = Field(0, ge=0, le=1024, description="side of the square that is blanked, px")
    random_erasing: float = Field(0.0, ge=0, le=1, description="probability of erasing a random rectangle")
    mixup: float = Field(0.0, ge=0, le=10, description="Beta parameter of blending images in pairs; 0: off")
    cutmix: float = Field(0.0, ge=0, le=10, description="Beta parameter of pasting a box from another image; 0: off")

    @model_validator(mode="before")
    @classmethod
    def _take_policy(cls, values: Any) -> Any:
        return with_policy(values)


class ModelConfig(Section):
    """The network, its initial weights, and which layers are trained."""

    name: Annotated[str, AfterValidator(network_or_own)] = Field(
        AUTO,
        description="the network; auto: chosen by the images, the device and the weights on this machine, with image "
        f"size, stages, batches and epochs where they are not set; {FORMS}: a function that returns your own model",
        json_schema_extra={
            "choices": [AUTO, *MODEL_NAMES],
            "allowed": f"'{AUTO}', a name that `kcv models` lists, or {FORMS} for a model of your own",
        },
    )
    width: float = Field(1.0, ge=0.125, le=4, description=f"channels, relative to the default; {SCALABLE} only")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout rate before the logits; null: the network's own"
    )
    weights: str = Field(
        "auto",
        min_length=1,
        description="initial weights: imagenet (downloaded if need be), none (random), or a model: a file, "
        "models:/NAME/VERSION or hf://OWNER/NAME; auto: imagenet, where the network has them and they can be had",
    )
    mode: Literal["fine_tuning", "feature_extraction"] = Field(
        "fine_tuning", description="train all layers, or only the head on a frozen backbone"
    )
    unfreeze_after: int = Field(
        0, ge=0, description="epochs of feature extraction before fine-tuning begins (two stages); 0: none"
    )
    freeze_batch_norm: bool | None = Field(
        None,
        description="keep the backbone's BatchNormalization statistics fixed; null: yes after frozen epochs, else no",
    )
    feature_views: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="augmented views whose frozen features are computed once and cached; null: 1 without augmentation, "
        "otherwise computed in every epoch",
    )


class OptimConfig(Section):
    """The optimizer and its schedule."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="the optimizer; sgd: with Nesterov momentum")
    lr: float = Field(2e-3, gt=0, le=100, description="peak learning rate; sgd needs about 100 times that of adamw")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; adamw has none")
    bias_lr_scale: float = Field(
        1.0, gt=0, le=1000, description="learning rate of biases and normalisation shifts, relative to kernels"
    )
    backbone_lr_scale: float = Field(
        1.0, gt=0, le=10, description="learning rate of the backbone relative to that of the head, in fine-tuning"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of each block of the backbone relative to that of the next one"
    )
    weight_decay: float = Field(
        0.05, ge=0, le=100, description="decoupled weight decay, multiplied by the learning rate at each step"
    )
    schedule: Literal["one_cycle", "cosine", "constant"] = Field("one_cycle", description="learning-rate schedule")
    warmup_epochs: float | None = Field(
        1.0, ge=0, description="warm-up epochs of the learning rate; if not given: 1, at most a quarter of the run"
    )
    warmup_fraction: float | None = Field(
        None, ge=0, lt=1, description="warm-up as a fraction of the run (of each stage), in place of warmup_epochs"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="probability spread over the other classes")
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy",
        description="the training loss; focal: images that are already classified well count less (val_loss is always "
        "cross-entropy)",
    )
    focal_gamma: float = Field(
        2.0, ge=0, le=10, description="how much less such images count in the focal loss; 0: cross-entropy"
    )
    distill_temperature: float = Field(
        4.0, gt=0, le=100, description="softens the answers of train.teacher and of the model before they are compared"
    )
    distill_weight: float = Field(
        0.9, gt=0, le=1, description="part of the loss that compares with train.teacher; the rest is that on the labels"
    )

    def warmup_in(self, epochs: int) -> float:
        """Returns the epochs of the warm-up in a run, or in a stage of one, of so many epochs.

        If it is not longer than the configured warm-up, a quarter of it is the warm-up.
        """
        if self.warmup_fraction is not None:
            return self.warmup_fraction * epochs
        warmup = 1.0 if self.warmup_epochs is None else self.warmup_epochs
        return epochs / 4 if warmup >= epochs else warmup


class TrainConfig(Section):
    """The length of the training, the choice of the best weights, checkpoints and error handling."""

    epochs: int = Field(20, ge=1, le=1_000_000, description="passes over the training images")
    minutes: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="time for the whole command: after timing the first steps, it sets train.epochs, and under "
        "model.name: auto the image size; null: any",
    )
    teacher: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="a finished model (file or run folder) whose answers to the images are learned too; null: none",
    )
    monitor: str = Field(
        "val_accuracy",
        max_length=200,
        description="what chooses the best weights: val_accuracy, val_loss, or val_NAME of a metric given in Python",
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="whose weights the model file has: those of the best epoch by train.monitor, or of the last one",
    )
    patience: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better monitor; not while unfreeze_after holds"
    )
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the moving average of the weights; null: off")
    calibrate: bool = Field(True, description="fit a temperature on the validation set, to calibrate confidences")
    abstain_precision: float | None = Field(
        None,
        gt=0,
        le=1,
        description="target precision; predictions below the confidence that reaches it on validation are reported as "
        "unsure; null: never unsure",
    )
    coverage: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="predict sets of classes that hold the right one in this fraction of images (0.95); null: no sets",
    )
    final_split: Literal["test", "val"] = Field(
        "test", description="split of the final evaluation; val: the test split is not read at all"
    )
    plots: bool = Field(True, description="draw the plots of the final evaluation; false: metrics and tables only")
    checkpoint_seconds: float | None = Field(
        30.0,
        ge=0,
        description="minimum time between checkpoints for --resume, s; they take at most 2% of the time. "
        "0: after every step; null: none",
    )
    on_divergence: Literal["stop", "rollback"] = Field(
        "stop",
        description="if the loss becomes NaN: stop, or return to the last good epoch with half the learning rate",
    )
    on_out_of_memory: Literal["stop", "split"] = Field(
        "stop", description="if a batch does not fit into GPU memory: stop and name a size that would, or split it"
    )
    sync_batchnorm: bool | None = Field(
        None,
        description="under torchrun: normalise by the statistics of the global batch, not per process; null: yes if a "
        "process has fewer than 32 images per batch",
    )
    compile: bool = Field(
        False, description="on CUDA, try torch.compile in the first steps and keep the faster; runs then differ in bits"
    )
    cpu_kernels: bool = Field(
        True,
        description="on CPUs with Linux, compile kernels at the start, where there is a C compiler: faster in float32",
    )
    cuda_graph: bool = Field(True, description="on CUDA, record the training step once and replay it, which is faster")


def _joined(value: Any) -> Any:
    """Returns a list of trackers as the text that names them all; other values unchanged."""
    if isinstance(value, list) and all(isinstance(one, str) and one and "," not in one for one in value):
        return ",".join(value)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


with warnings.catch_warnings():
    # pydantic's classes have a method of this name, which registers virtual subclasses; nothing uses it here.
    warnings.filterwarnings("ignore", 'Field name "register"', UserWarning)

    class TrackingConfig(Section):
        """Where the run is recorded: MLflow, TensorBoard, W&B, or several."""

        uri: Annotated[str | None, BeforeValidator(_joined)] = Field(
            None,
            min_length=1,
            description="MLflow URI, tensorboard:FOLDER, wandb:PROJECT, or several, separated by commas or as a list; "
            "null: MLFLOW_TRACKING_URI of the environment, or mlflow.db in the working folder; none: no tracking",
        )
        experiment: str = Field("kcv", min_length=1, description="experiment that the run belongs to")
        register: str | None = Field(
            None,
            pattern=r"^[^/:\s](?:[^/:\n]{0,253}[^/:\s])?$",
            description="register the model as a new version of the registered model with this name",
            json_schema_extra={"allowed": "a name without slash and colon"},
        )
        alias: str | None = Field(
            None,
            pattern=r"^[A-Za-z0-9_-]{1,255}$",
            description="alias of the registered model that is moved to the new version, such as champion",
            json_schema_extra={"allowed": "letters, digits, '_' and '-'; not latest, v1, v2 ..."},
        )
        parent: str | None = Field(
            None,
            pattern=r"^[A-Za-z0-9_-]{1,64}$",
            description="ID of the MLflow run that this run is shown below",
            json_schema_extra={"allowed": "letters, digits, '_' and '-', at most 64"},
        )
        system_metrics: bool = Field(
            False, description="record the use of CPU and memory every 10 s (the extra kcv[system-metrics])"
        )
