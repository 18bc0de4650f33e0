"""The schemas of the files in a run folder, as far as a report shows them; files are validated against these."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kcv.artifact.figures import Count, Fraction
from kcv.common.untrusted import read_bytes, refusing
from kcv.errors import DataError

_EPOCH = "epoch"
_MOST_TEXT = 10_000
_MOST_HISTORY_BYTES = 16 * 2**20


def _text(value: Any) -> str:
    """Validates a string. Names of non-UTF-8 files contain lone surrogates, which pydantic's `str` refuses."""
    if not isinstance(value, str):
        raise ValueError("should be a text")
    if len(value) > _MOST_TEXT:
        raise ValueError(f"is longer than {_MOST_TEXT:,} characters")
    return value


Text = Annotated[Any, AfterValidator(_text)]


class _Record(BaseModel):
    """A file whose fields that are not shown are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Environment(_Record):
    """`environment.json`: the environment of a run; every field is optional because earlier versions wrote fewer."""

    started: Text | None = None
    command: Text | None = None
    python: Text | None = None
    platform: Text | None = None
    packages: Annotated[dict[str, Text], Field(max_length=1000)] = {}
    device: Text | None = None
    device_name: Text | None = None
    threads: int | None = None
    seed: int | None = None
    weights: Text | None = None
    git_commit: Text | None = None


class Mistake(_Record):
    """A misclassified image; see `kcv.reporting.misclassified.most_confident`."""

    picture: Text
    true: Text
    predicted: Text
    confidence: Fraction
    suspected_label_error: bool = False


class Mistakes(_Record):
    """`mistakes.json`."""

    mistakes: Annotated[list[Mistake], Field(max_length=10_000)] = []


class MethodFigures(_Record):
    """How far the heat maps of one method can be trusted."""

    deletion_auc: float | None = None
    insertion_auc: float | None = None
    rank_correlation: float | None = None
    flat: float | None = None


class Explanations(_Record):
    """`explanations.json`; see `kcv.saliency.trust`."""

    pictures: Count
    methods: Annotated[dict[str, MethodFigures], Field(max_length=1000)]


def read_history(path: Path) -> list[dict[str, float]]:
    """Returns the rows of a `history.csv`; empty if there is no such file.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    with refusing(path, DataError, "is not the history of a run"):
        if not path.is_file():
            return []
        text = read_bytes(path, _MOST_HISTORY_BYTES, DataError).decode("utf-8")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if _EPOCH not in (rows.fieldnames or (_EPOCH,)):
            raise ValueError(f"it has no column {_EPOCH!r}")
        return [{key: float(value) for key, value in row.items()} for row in rows]
