"""What a report is made of: what a run folder and an evaluation folder hold, read back."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from kcv import artifact
from kcv.artifact import ArtifactInfo
from kcv.artifact.figures import checked_figures
from kcv.common.untrusted import MOST_JSON_BYTES, inside, parse_json, read, read_bytes
from kcv.errors import ArtifactError, DataError
from kcv.reporting.records import Environment, Explanations, Mistake, Mistakes, read_history

PLOTS = {
    "learning_curves": ".svg", "confusion_matrix_normalized": ".svg", "roc": ".svg", "reliability": ".svg",
    "mistakes": ".png",  # photographs
}  # fmt: skip
"""The plots that a report shows, and their kind."""

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


@dataclass(frozen=True)
class Material:
    """A run and what it came to. What is not there, or cannot be read, is left out.

    Attributes:
        folder: of the run.
        model: the model file.
        bytes: its size.
        info: what the model file says of itself.
        metrics: as in `metrics.json`, see `kcv.artifact.figures`; None where nothing was measured.
        history: the rows of `history.csv`.
        environment: of `environment.json`; None where there is none.
        config: the text of `config.yaml`.
        mistakes: the rows of `mistakes.json`.
        explanations: of `explanations.json`; None where there are none.
        plots: those that are there, by the names of `PLOTS`.
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
        """What to call the run: its name in the configuration, and its folder's."""
        name = str(self.info.config.get("name", "run"))[:100]
        return name if name == self.folder.name else f"{name} / {self.folder.name}"

    @property
    def weights(self) -> str:
        """What the training began with."""
        return str(self.environment.weights) if self.environment and self.environment.weights else "random"

    @property
    def minutes(self) -> float | None:
        """How long the epochs took; None where that is not known."""
        seconds = [row["seconds"] for row in self.history if "seconds" in row]
        return sum(seconds) / 60 if seconds else None


def gather(model: Path, evaluation: Path) -> Material:
    """Reads what is there. A run folder may be a stranger's: no link in it is followed.

    Args:
        model: the model file; what lies beside it belongs to its run.
        evaluation: the folder of an evaluation; it need not be there.

    Raises:
        ArtifactError: the model file is missing or damaged.
        DataError: `metrics.json` is damaged. A report of other figures would mislead; whatever else cannot be read is
            left out, and said to be.
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
        environment=_record(folder, "environment.json", Environment),
        config=_read(folder, "config.yaml", _text),
        mistakes=mistakes.mistakes if mistakes else [],
        explanations=_record(evaluation, "explanations.json", Explanations),
        plots=_plots(evaluation, folder),
    )


def known_history(folder: Path) -> list[dict[str, float]]:
    """Returns the rows of a run's `history.csv`; none where there is no sound one, with a warning if it is damaged."""
    return _read(folder, "history.csv", read_history) or []


def model_in(run: Path) -> Path:
    """Returns the model file of a run that a user named by its folder or the file itself.

    Raises:
        ArtifactError: there is none.
    """
    model = run / "model.keras" if os.path.isdir(run) else run
    try:
        os.stat(model)
    except FileNotFoundError:
        raise ArtifactError(f"{run}: no such run; a run folder holds model.keras") from None
    except (OSError, ValueError):
        pass  # who opens it says why it cannot be
    return model


def _figures(path: Path) -> dict[str, Any]:
    values = parse_json(read_bytes(path, MOST_JSON_BYTES, DataError), path, DataError, otherwise="is damaged")
    return checked_figures(values, str(path), DataError)


def _plots(evaluation: Path, folder: Path) -> dict[str, Plot]:
    plots = {}
    for name, suffix in PLOTS.items():
        for place in (evaluation, folder):
            content = _read(place, f"{name}{suffix}", lambda path: read_bytes(path, _MOST_PLOT_BYTES, DataError))
            if content is not None:
                plots[name] = Plot(suffix, content)
                break
    return plots


def _record(folder: Path, name: str, schema: type[Record]) -> Record | None:
    return _read(folder, name, lambda path: read(path, schema, DataError))


def _read(folder: Path, name: str, reader: Callable[[Path], Value]) -> Value | None:
    """Reads a file of a folder; returns None, with a warning, where it cannot be read, and None where it is not."""
    try:
        path = _file(folder, name)
        return reader(path) if path is not None else None
    except DataError as error:
        _log.warning("%s; left out", error)
        return None


def _file(folder: Path, name: str) -> Path | None:
    """Returns the path of a file in a folder; None where it is not there.

    Raises:
        DataError: it is a link.
    """
    path = inside(folder, name, error=DataError)
    return path if os.path.lexists(path) else None


def _text(path: Path) -> str:
    try:
        return read_bytes(path, _MOST_CONFIG_BYTES, DataError).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no UTF-8 text") from None
