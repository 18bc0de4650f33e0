"""What a run came to, as a page for people: one HTML file, and a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kcv.common.files import expanded, write_text
from kcv.common.untrusted import inside
from kcv.errors import DataError
from kcv.reporting.card import card
from kcv.reporting.material import gather, known_history, model_in
from kcv.reporting.page import page
from kcv.reporting.records import read_history

__all__ = ["Report", "known_history", "read_history", "report", "write_page"]

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """Where a report lies.

    Attributes:
        page: the HTML file; it needs no other file and no network.
        card: the model card, Markdown.
    """

    page: Path
    card: Path


def report(run: str | Path, output_dir: str | Path | None = None, *, evaluation: str | Path | None = None) -> Report:
    """Writes `report.html` and `MODEL_CARD.md` from what a run folder holds.

    Args:
        run: a run folder, or a model file.
        output_dir: where to; by default the run folder.
        evaluation: the folder of the evaluation to show; by default `evaluation` in the run folder. What is not there
            is left out.

    Raises:
        ArtifactError: there is no such model, or its file is damaged.
        DataError: the figures of the run are damaged, or its evaluation is a link. Other files that cannot be read are
            left out, with a warning.
        OutputError: the place cannot be written to.
    """
    model = model_in(expanded(run))
    if evaluation is None:
        evaluation = inside(model.parent, "evaluation", error=DataError)
    material = gather(model, Path(evaluation))
    folder = expanded(output_dir) if output_dir is not None else model.parent
    made = Report(folder / PAGE, folder / "MODEL_CARD.md")
    write_text(made.page, page(material))
    write_text(made.card, card(material))
    return made


def write_page(model: Path, evaluation: Path) -> None:
    """Writes the report of one evaluation into its own folder. Raises as `report`."""
    write_text(evaluation / PAGE, page(gather(model, evaluation)))
