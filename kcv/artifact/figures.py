"""The schema of a split's metrics as stored in files.

`kcv.metrics.summarize` computes them. Keys that earlier versions of kcv did not write are optional, and additional keys
of later versions are kept.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from kcv.common.untrusted import first_problem
from kcv.errors import ArtifactError, KcvError

MOST_CLASSES = 100_000
_MOST_COUNT = 10**12
_MOST_LOSS = 1e6

Fraction = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(ge=0, le=_MOST_LOSS)]
Count = Annotated[int, Field(ge=0, le=_MOST_COUNT)]
Name = Annotated[str, StringConstraints(max_length=1000)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    """Base class of the schema. It is strict, because the values are used as read, without conversion."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class ClassFigures(_Part):
    """The metrics of one class; see `kcv.metrics.scores.class_scores`."""

    precision: Fraction | None
    recall: Fraction | None
    f1: Fraction | None
    support: Count
    roc_auc: Fraction | None = None
    average_precision: Fraction | None = None
    predicted: Count | None = None


class ConfusedPair(_Part):
    """A frequent confusion; see `kcv.metrics.scores.confused_pairs`."""

    true: Name
    predicted: Name
    count: Count
    share: Fraction


class Abstention(_Part):
    """The metrics of a model that may abstain; see `kcv.metrics.summary.abstention`."""

    threshold: Fraction
    coverage: Fraction
    precision: Fraction | None
    precision_ci95: Interval | None = None


class SetFigures(_Part):
    """The metrics of prediction sets; see `kcv.metrics.conformal.measure_sets`."""

    wanted_coverage: Fraction
    least: Fraction
    coverage: Fraction
    coverage_ci95: Interval
    mean_size: Annotated[float, Field(ge=0, le=MOST_CLASSES)]
    single: Fraction
    largest: Count
    lowest_class: Name
    lowest_class_coverage: Fraction


class TtaFigures(_Part):
    """What test-time augmentation brings and costs; see `kcv.inference.tta_gain.gain`."""

    name: Name
    views: Count
    images_per_second: Annotated[float, Field(ge=0)]
    plain_images_per_second: Annotated[float, Field(ge=0)]
    plain_accuracy: Fraction
    difference_points: Annotated[float, Field(ge=-100, le=100)]
    difference_ci95_points: Annotated[list[Annotated[float, Field(ge=-100, le=100)]], Field(min_length=2, max_length=2)]
    p_value: Fraction
    differ: bool


class Figures(_Part):
    """All metrics of one split; see `kcv.metrics.summarize`."""

    split: Name
    n: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    accuracy: Fraction
    accuracy_ci95: Interval
    balanced_accuracy: Fraction | None = None
    macro_f1: Fraction | None = None
    macro_f1_ci95: Interval | None = None
    top_k_accuracy: Annotated[dict[Name, Fraction | None], Field(max_length=100)] = {}
    roc_auc_macro: Fraction | None = None
    average_precision_macro: Fraction | None = None
    log_loss: Loss | None = None
    brier: Loss | None = None
    ece: Fraction | None = None
    confused_pairs: Annotated[list[ConfusedPair], Field(max_length=100)] = []
    per_class: Annotated[dict[Name, ClassFigures], Field(min_length=1, max_length=MOST_CLASSES)]
    abstention: Abstention | None = None
    prediction_sets: SetFigures | None = None
    tta: TtaFigures | None = None


def checked_figures(values: Any, origin: str, error: type[KcvError] = ArtifactError) -> dict[str, Any]:
    """Returns metrics unchanged after validating them with `Figures`.

    Args:
        values: the values read from JSON.
        origin: the file's name, for the message.
        error: the class of the error that is raised.

    Raises:
        KcvError: of class `error`; the message names the first invalid key.
    """
    try:
        Figures.model_validate(values)
    except ValidationError as caught:
        raise error(f"{origin}: is damaged: {first_problem(caught)}") from None
    figures: dict[str, Any] = values
    return figures
