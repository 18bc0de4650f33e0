"""What a report is made of: what a run folder and an evaluation folder hold, read back."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kcv import artifact
from kcv.artifact import ArtifactInfo
from kcv.errors import ArtifactError, DataError

PLOTS = ("learning_curves", "confusion_matrix_normalized", "roc", "reliability", "mistakes")
"""Names of the plots that a report shows, without their suffix."""


@dataclass(frozen=True)
class Material:
    """A run and what it came to.

    Attributes:
        folder: of the run.
        model: the model file.
        info: what the model file says of itself.
        metrics: as in `metrics.json`; None where nothing was measured.
        history: the rows of `history.csv`; empty where there is none.
        environment: as in `environment.json`; empty where there is none.
        config: the text of `config.yaml`; None where there is none.
        mistakes: the rows of `mistakes.json`; empty where there is none.
        explanations: as in `explanations.json`; empty where there is none.
        plots: the files that are there, by the names of `PLOTS`.
    """

    folder: Path
    model: Path
    info: ArtifactInfo
    metrics: dict[str, Any] | None
    history: list[dict[str, float]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    mistakes: list[dict[str, Any]] = field(default_factory=list)
    explanations: dict[str, Any] = field(default_factory=dict)
    plots: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call the run: its name in the configuration, and its folder's."""
        name = str(self.info.config.get("name", "run"))
        return name if name == self.folder.name else f"{name} / {self.folder.name}"

    @property
    def minutes(self) -> float | None:
        """How long the epochs took; None where that is not known."""
        seconds = [row["seconds"] for row in self.history if "seconds" in row]
        return sum(seconds) / 60 if seconds else None


def gather(model: Path, evaluation: Path) -> Material:
    """Reads what is there.

    Args:
        model: the model file; what lies beside it belongs to its run.
        evaluation: the folder of an evaluation; it need not be there.

    Raises:
        ArtifactError: the model file is missing or damaged.
        DataError: a file beside it is damaged; the message names it.
    """
    folder = model.resolve().parent
    info = artifact.read_info(model)
    metrics = _json(evaluation / "metrics.json") or info.metrics
    found = {name: [place / f"{name}.svg" for place in (evaluation, folder)] for name in PLOTS}
    found["mistakes"] = [place / "mistakes.png" for place in (evaluation, folder)]  # photographs
    mistakes = _json(evaluation / "mistakes.json")
    config = folder / "config.yaml"
    return Material(
        folder=folder,
        model=model,
        info=info,
        metrics=metrics,
        history=read_history(folder / "history.csv"),
        environment=_json(folder / "environment.json") or {},
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
        mistakes=mistakes["mistakes"] if mistakes else [],
        explanations=_json(evaluation / "explanations.json") or {},
        plots={name: next(path for path in places if path.is_file()) for name, places in found.items() if any(
            path.is_file() for path in places)},
    )  # fmt: skip


def read_history(path: Path) -> list[dict[str, float]]:
    """Returns the rows of a `history.csv`; none where there is no such file.

    Raises:
        DataError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return [{key: float(value) for key, value in row.items()} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is not the history of a run: {error}") from None


def model_in(run: Path) -> Path:
    """Returns the model file of a run that a user named by its folder or the file itself.

    Raises:
        ArtifactError: there is none.
    """
    model = run / "model.keras" if run.is_dir() else run
    if not model.is_file():
        raise ArtifactError(f"{run}: no such run; a run folder holds model.keras")
    return model


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is damaged: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: is damaged: it holds no object")
    return values
