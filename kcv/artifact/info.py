"""The description in a model file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from kcv.artifact.figures import MOST_CLASSES, Figures
from kcv.common.text import is_printable
from kcv.common.untrusted import first_problem, parse_json
from kcv.errors import ArtifactError
from kcv.metrics.conformal import PredictionSets
from kcv.metrics.temperature import Calibration, TtaCalibrations

FORMAT_VERSION = 1

_MOST_PARAMETERS = 10**15
_MOST_CONFIG_VALUES = 2_000
"""Counts sections, lists and keys; a configuration of kcv has a hundred."""
_LONGEST_CONFIG_TEXT = 10_000

Text = Annotated[str, StringConstraints(max_length=1000)]


class ModelSource(BaseModel):
    """Where the function is from that built a model of the user's own. Nothing is ever imported by it.

    Attributes:
        name: `FILE.py:FUNCTION` or `MODULE:FUNCTION`, as the user typed it.
        sha256: SHA-256 (hex) of the file of the function when the run began.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Text
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("name")
    @classmethod
    def _shown(cls, value: str) -> str:
        """Rejects control characters, which a terminal would interpret."""
        if not is_printable(value):
            raise ValueError("holds control characters")
        return value


class ArtifactInfo(BaseModel):
    """The content of `kcv.json` in a model file.

    Attributes:
        format_version: version of this description; a version higher than this kcv supports is rejected.
        model_name: the architecture, as in `model.name`.
        model_source: where a model of the user's own is from; None for kcv's networks, and for models that were passed
            to `kcv.train`.
        variant: variant of the architecture, if it has several (which pretrained weights fit).
        class_names: class names in the order of the logits.
        image_size: side of the square input, in pixels.
        resize: how images of other sizes are resized.
        precision: the Keras dtype policy of the training.
        parameters: parameter counts: `total` and `trainable`.
        data_name: name of the training data.
        data_fingerprint: SHA-256 (hex) of the training source; see `kcv.data.dataset.Source`.
        config: the complete configuration of the run, nested.
        metrics: metrics of the test split (or of the validation split if there is no test split), once measured.
        calibration: turns logits into probabilities and answers; None if nothing was fitted.
        tta: calibrations of test-time augmentations; empty if none was fitted.
        best_epoch: the epoch (from 1) of these weights.
        versions: versions of kcv, keras, torch and Python.
        created: time at which the file was written.
    """

    # Unknown keys are ignored, not rejected: a newer kcv may add keys without changing the format version.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    model_name: Text
    model_source: ModelSource | None = None
    variant: Text | None = None
    class_names: tuple[Text, ...] = Field(min_length=2, max_length=MOST_CLASSES)
    image_size: int = Field(ge=1, le=4096)
    resize: Literal["squash", "crop", "letterbox"]
    precision: Text
    parameters: dict[Text, Annotated[int, Field(ge=0, le=_MOST_PARAMETERS)]] = Field(max_length=100)
    data_name: Text
    data_fingerprint: Text
    config: dict[str, Any]
    metrics: dict[str, Any] | None = None
    calibration: Calibration | None = None
    tta: TtaCalibrations = TtaCalibrations({})
    best_epoch: int | None = Field(default=None, ge=0, le=10**9)
    versions: dict[Text, Text] = Field(max_length=100)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @field_validator("class_names", "model_name", "variant", "precision", "data_name", "data_fingerprint", "versions")
    @classmethod
    def _shown(cls, value: Any) -> Any:
        """Rejects control characters, which a terminal would interpret."""
        texts = [value] if isinstance(value, str) else [*value, *value.values()] if isinstance(value, dict) else value
        if not all(map(is_printable, texts or ())):
            raise ValueError("holds control characters")
        return value

    @field_validator("parameters")
    @classmethod
    def _counted(cls, value: dict[str, int]) -> dict[str, int]:
        if "total" not in value:
            raise ValueError("total is missing")
        return value

    @field_validator("config")
    @classmethod
    def _few(cls, value: dict[str, Any]) -> dict[str, Any]:
        pending: list[Any] = [value]
        count = 0
        while pending:
            node = pending.pop()
            inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
            count += len(inner)
            texts = [node] if isinstance(node, str) else list(node) if isinstance(node, dict) else []
            if any(len(text) > _LONGEST_CONFIG_TEXT for text in texts):
                raise ValueError(f"holds a text of more than {_LONGEST_CONFIG_TEXT:,} characters")
            if count > _MOST_CONFIG_VALUES:
                raise ValueError(f"holds more than {_MOST_CONFIG_VALUES:,} values")
            pending.extend(inner)
        return value

    @field_validator("metrics")
    @classmethod
    def _figures(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """Validates the metrics and keeps them as written."""
        if value is not None:
            figures = Figures.model_validate(value)
            if not is_printable(figures.split):
                raise ValueError("split holds control characters")
        return value

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which the model abstains; None if it never does."""
        return self.calibration.threshold if self.calibration else None

    @property
    def sets(self) -> PredictionSets | None:
        """Which classes belong to the set of an image; None if there are no sets."""
        return self.calibration.sets if self.calibration else None

    @property
    def mirrored(self) -> bool:
        """Whether the training images were mirrored left to right at random, so that mirror images are as good."""
        section = self.config.get("augment")
        if not isinstance(section, dict):
            return False
        layers = section.get("layers")
        flips = [one for one in layers if _flips(one)] if isinstance(layers, list) else []
        return section.get("flip", "none") != "none" or bool(flips)

    @property
    def data_options(self) -> dict[str, Any]:
        """The section `data` of the configuration; empty if there is none."""
        section = self.config.get("data")
        return section if isinstance(section, dict) else {}


def _flips(layer: Any) -> bool:
    """Returns whether an entry of `augment.layers` mirrors left to right; Keras' RandomFlip does by default."""
    values = layer if isinstance(layer, dict) else {"name": layer}
    return "Flip" in str(values.get("name")) and values.get("mode") != "vertical"


def parse_info(text: bytes, path: Path) -> ArtifactInfo:
    """Parses the content of `kcv.json`.

    Args:
        text: the JSON.
        path: path of the model file, for the message.

    Raises:
        ArtifactError: the description is damaged, or its format is newer.
    """
    values = parse_json(text, path, ArtifactError, otherwise="its description is damaged")
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: its description is damaged: holds no object")
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        shown = str(version)[:20]
        raise ArtifactError(f"{path}: written by a newer kcv (format {shown}); this one reads {FORMAT_VERSION}")
    try:
        return ArtifactInfo.model_validate(values)
    except ValidationError as error:
        raise ArtifactError(f"{path}: its description is damaged: {first_problem(error)}") from None
