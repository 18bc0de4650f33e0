"""What a model file says of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kcv.calibration import Calibration
from kcv.names import is_plain

FORMAT_VERSION = 1


class ArtifactInfo(BaseModel):
    """The `kcv.json` of a model file.

    Attributes:
        format_version: of this description; a higher one than this kcv knows is refused.
        model_name: the architecture, as in `model.name`.
        variant: of the architecture, where it has several (whose pretrained weights fit).
        class_names: the classes, in the order of the logits.
        image_size: side of the square input, in pixels.
        resize: how pictures of other sizes are brought to it.
        precision: the Keras dtype policy it was trained under.
        parameters: counts: `total` and `trainable`.
        data_name: what it was trained on.
        data_fingerprint: SHA-256 (hex) of the training source; see `kcv.data.dataset.Source`.
        config: the whole configuration of the run, nested.
        metrics: of the test split (or the validation split, where there is no test split), once measured.
        calibration: how logits become probabilities and answers; None where nothing was fitted.
        best_epoch: the epoch (from 1) whose weights these are.
        versions: of kcv, keras, torch and Python.
        created: when the file was written.
    """

    # Unknown keys are kept out of the way, not refused: a newer kcv may say more within one format.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    model_name: str
    variant: str | None = None
    class_names: tuple[str, ...] = Field(min_length=2)
    image_size: int = Field(ge=1, le=4096)
    resize: Literal["squash", "crop", "letterbox"]
    precision: str
    parameters: dict[str, int]
    data_name: str
    data_fingerprint: str
    config: dict[str, Any]
    metrics: dict[str, Any] | None = None
    calibration: Calibration | None = None
    best_epoch: int | None = None
    versions: dict[str, str]
    created: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @field_validator("class_names", "model_name", "data_name")
    @classmethod
    def _shown(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Refuses what a terminal would obey."""
        if not all(map(is_plain, [value] if isinstance(value, str) else value)):
            raise ValueError("holds control characters")
        return value
