"""A run for people: one HTML page, and a model card.

run folder -> material -> report.html, MODEL_CARD.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kcv.common.files import expand_user, write_text
from kcv.errors import DataError

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
    """Write an HTML report and a model card for a run.

    Both are made of what the run folder holds: `report.html` and `MODEL_CARD.md`.

    Args:
        run: a run folder, or the model file in it.
        output_dir: folder for both files; default: the run folder.
        evaluation: folder of the evaluation to show; default: evaluation/ in the run folder. What is not there is left
            out.

    Raises:
        ArtifactError: there is no such model, or its file is damaged.
        DataError: the figures of the run are damaged, or its evaluation is a link. Other files that cannot be read are
            left out, with a warning.
        OutputError: the place cannot be written to.

    Example:
        $ kcv report runs/mine
        >>> kcv.report("runs/mine").page
    """
    from kcv.common.untrusted import inside
    from kcv.reporting.card import card
    from kcv.reporting.material import gather, model_in
    from kcv.reporting.page import page

    model = model_in(expand_user(run))
    shown = inside(model.parent, "evaluation", error=DataError) if evaluation is None else expand_user(evaluation)
    material = gather(model, shown)
    folder = expand_user(output_dir) if output_dir is not None else model.parent
    written = Report(folder / PAGE, folder / "MODEL_CARD.md")
    write_text(written.page, page(material))
    write_text(written.card, card(material))
    return written


def write_page(model: Path, evaluation: Path) -> None:
    """Writes the report of one evaluation into its own folder. Raises as `report`."""
    from kcv.reporting.material import gather
    from kcv.reporting.page import page

    write_text(evaluation / PAGE, page(gather(model, evaluation)))
