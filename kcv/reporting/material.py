"""Reads the contents of a run folder and an evaluation folder for a report, validated against schemas."""

from __future__ import annotations

import base64
import csv
import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kcv import artifact
from kcv.artifact import ArtifactInfo
from kcv.artifact.figures import Count, Fraction, checked_figures
from kcv.common.untrusted import MOST_JSON_BYTES, inside, parse_json, read, read_bytes, refusing
from kcv.errors import ArtifactError, DataError
from kcv.reporting.plots.evaluation import MISTAKES, evaluation_plots

_EPOCH = "epoch"
_MOST_TEXT = 10_000
_MOST_HISTORY_BYTES = 16 * 2**20


def _escaped(value: Any) -> str:
    """Validates a string. Names of non-UTF-8 files contain lone surrogates, which pydantic's `str` refuses."""
    if not isinstance(value, str):
        raise ValueError("should be a text")
    if len(value) > _MOST_TEXT:
        raise ValueError(f"is longer than {_MOST_TEXT:,} characters")
    return value


Text = Annotated[Any, AfterValidator(_escaped)]


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


_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
_MOST_CONFIG_BYTES = 2**20
_MOST_PLOT_BYTES = 16 * 2**20

_log = logging.getLogger(__name__)

Record = TypeVar("Record", bound=BaseModel)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        suffix: `.svg` or `.png`.
        content: the file.
    """

    suffix: str
    content: bytes

    @property
    def data_uri(self) -> str:
        """The plot as a URI that holds it (RFC 2397)."""
        return f"data:{_TYPES[self.suffix]};base64,{base64.b64encode(self.content).decode('ascii')}"


@dataclass(frozen=True)
class Material:
    """A run and its results. Missing or unreadable files are left out.

    Attributes:
        folder: the run folder.
        model: the model file.
        bytes: size of the model file.
        info: the metadata stored in the model file.
        metrics: the content of `metrics.json`, see `kcv.artifact.figures`; None if there was no evaluation.
        history: the rows of `history.csv`.
        environment: the content of `environment.json`; None if there is none.
        config: the text of `config.yaml`.
        mistakes: the rows of `mistakes.json`.
        explanations: the content of `explanations.json`; None if there is none.
        plots: the available plots, by their names.
    """

    folder: Path
    model: Path
    bytes: int
    info: ArtifactInfo
    metrics: dict[str, Any] | None
    history: list[dict[str, float]] = field(default_factory=list)
    environment: Environment | None = None
    config: str | None = None
    mistakes: list[Mistake] = field(default_factory=list)
    explanations: Explanations | None = None
    plots: dict[str, Plot] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The title of the run: its name in the configuration and its folder's name."""
        name = str(self.info.config.get("name", "run"))[:100]
        return name if name == self.folder.name else f"{name} / {self.folder.name}"

    @property
    def weights(self) -> str:
        """The initial weights of the training run."""
        return str(self.environment.weights) if self.environment and self.environment.weights else "random"

    @property
    def minutes(self) -> float | None:
        """The training time of all epochs in minutes; None if unknown."""
        seconds = [row["seconds"] for row in self.history if "seconds" in row]
        return sum(seconds) / 60 if seconds else None


def gather(model: Path, evaluation: Path) -> Material:
    """Reads all available files. A run folder may be untrusted, so no link in it is followed.

    Args:
        model: the model file; the other files in its folder belong to its run.
        evaluation: the evaluation folder; it need not exist.

    Raises:
        ArtifactError: the model file is missing or damaged.
        DataError: `metrics.json` is damaged, because a report of other metrics would mislead. Any other unreadable file
            is left out with a warning.
    """
    info = artifact.read_info(model)
    folder = model.parent.resolve()
    measured = _file(evaluation, "metrics.json")
    metrics = _figures(measured) if measured else info.metrics
    mistakes = _record(evaluation, "mistakes.json", Mistakes)
    return Material(
        folder=folder,
        model=model,
        bytes=model.stat().st_size,
        info=info,
        metrics=metrics,
        history=known_history(folder),
        environment=known_environment(folder),
        config=_read(folder, "config.yaml", _text),
        mistakes=mistakes.mistakes if mistakes else [],
        explanations=_record(evaluation, "explanations.json", Explanations),
        plots=_plots(evaluation, folder),
    )


def known_history(folder: Path) -> list[dict[str, float]]:
    """Returns the rows of a run's `history.csv`; empty if there is none or, with a warning, if it is damaged."""
    return _read(folder, "history.csv", read_history) or []


def known_environment(folder: Path) -> Environment | None:
    """Returns a run's `environment.json`; None if there is none or, with a warning, if it is damaged."""
    return _record(folder, "environment.json", Environment)


def model_in(run: Path) -> Path:
    """Returns the model file of a run that is given as its folder or as the file itself.

    Raises:
        ArtifactError: there is no model file.
    """
    model = run / "model.keras" if os.path.isdir(run) else run
    try:
        os.stat(model)
    except FileNotFoundError:
        raise ArtifactError(f"{run}: no such run; a run folder holds model.keras") from None
    except (OSError, ValueError):
        pass  # opening it later reports the reason
    return model


def _figures(path: Path) -> dict[str, Any]:
    values = parse_json(read_bytes(path, MOST_JSON_BYTES, DataError), path, DataError, otherwise="is damaged")
    return checked_figures(values, str(path), DataError)


def _plots(evaluation: Path, folder: Path) -> dict[str, Plot]:
    plots = {}
    shown = {plot.name: ".svg" for plot in evaluation_plots() if plot.section} | {MISTAKES: ".png"}  # photographs
    for name, suffix in shown.items():
        for place in (evaluation, folder):
            content = _read(place, f"{name}{suffix}", lambda path: read_bytes(path, _MOST_PLOT_BYTES, DataError))
            if content is not None:
                plots[name] = Plot(suffix, content)
                break
    return plots


def _record(folder: Path, name: str, schema: type[Record]) -> Record | None:
    return _read(folder, name, lambda path: read(path, schema, DataError))


def _read(folder: Path, name: str, reader: Callable[[Path], Value]) -> Value | None:
    """Reads a file of a folder; returns None if it is missing or, with a warning, if it cannot be read."""
    try:
        path = _file(folder, name)
        return reader(path) if path is not None else None
    except DataError as error:
        _log.warning("%s; left out", error)
        return None


def _file(folder: Path, name: str) -> Path | None:
    """Returns the path of a file in a folder, or None if it does not exist.

    Raises:
        DataError: the file is a link.
    """
    path = inside(folder, name, error=DataError)
    return path if os.path.lexists(path) else None


def _text(path: Path) -> str:
    try:
        return read_bytes(path, _MOST_CONFIG_BYTES, DataError).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no UTF-8 text") from None
