"""The page of a study as one self-contained HTML file without scripts, in the look of a run's report.

The template `templates/study.html.jinja` holds the markup; this module computes what it shows. Everything that comes
from a file or a user is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kcv import __version__
from kcv.common.files import temporary_folder, write_text
from kcv.common.text import setting
from kcv.reporting import plots
from kcv.reporting.material import Plot
from kcv.reporting.page import percent, template

_MOST_ROWS = 500
_MOST_LINES = 300


@dataclass(frozen=True)
class StudyMaterial:
    """What the page shows.

    Attributes:
        title: the name of the study.
        monitor: what was optimised.
        higher: whether a higher monitor is better.
        pruner: which trials were stopped early.
        epochs: epochs of a whole trial.
        ranges: the space, as in a space file.
        trials: a row per trial, the best first: `number`, `state`, `epochs`, `value`, `seconds`, `params`, `values` by
            epoch, `default` and `message`.
        best: number of the best trial; None if none has come to its end.
        best_config: the content of `best.yaml`; None if there is none.
        again: the command that trains with it.
        importance: how much each key matters, 0-1, by dotted key.
        rows: test accuracies, see `kcv.tuning.final.Comparison`.
        verdicts: the comparisons in words.
        images: number of test images.
        notes: what the reader should know.
        folds: the number of folds of a whole trial, whose `epochs` are then folds; None for a single training.
    """

    title: str
    monitor: str
    higher: bool
    pruner: str
    epochs: int
    ranges: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]
    best: int | None = None
    best_config: str | None = None
    again: str = ""
    importance: Mapping[str, float] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    verdicts: Sequence[str] = ()
    images: int = 0
    notes: Sequence[str] = ()
    folds: int | None = None

    @property
    def unit(self) -> str:
        """What a trial comes through."""
        return "epoch" if self.folds is None else "fold"


def write_page(path: Path, material: StudyMaterial) -> None:
    """Writes the page.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, page(material))


def page(material: StudyMaterial) -> str:
    """Returns the whole page."""
    states = [str(trial["state"]) for trial in material.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return template("study.html.jinja").render(
        title=f"Study {material.title}",
        subtitle=f"{len(states)} trials ({counts}) of {material.epochs} epochs{_in_folds(material)}; "
        f"pruner {material.pruner}",
        figures=_figures(material),
        space={key: _space_in_words(values) for key, values in material.ranges.items()},
        header=("trial", material.monitor, "state", f"{material.unit}s", "minutes", *material.ranges),
        trials=[_row(trial, material) for trial in material.trials[:_MOST_ROWS]],
        more=max(0, len(states) - _MOST_ROWS),
        failed=[(str(one["number"]), str(one["state"]), one["message"]) for one in material.trials if one["message"]],
        test=[
            (row["who"], str(row["seed"]), str(row["trial"]), row["accuracy"],
             f"{percent(row['accuracy_low'])} to {percent(row['accuracy_high'])}")
            for row in material.rows
        ],
        images=material.images,
        verdicts=material.verdicts,
        notes=material.notes,
        unit=material.unit,
        best_config=material.best_config,
        again=material.again,
        plots=_plots(material),
        version=__version__,
    )  # fmt: skip


def _figures(material: StudyMaterial) -> list[tuple[str, str, str]]:
    """Returns the main figures, each with its name and a remark."""
    by_number = {trial["number"]: trial for trial in material.trials}
    cards = []
    if material.best is not None:
        cards.append((f"best {material.monitor}", f"{by_number[material.best]['value']:.4f}", f"trial {material.best}"))
    default = next((trial for trial in material.trials if trial["default"]), None)
    if default is not None:
        value = default["value"]
        told = str(default["state"]) if value is None or default["state"] == "diverged" else f"{value:.4f}"
        cards.append(("your configuration", told, f"trial {default['number']}"))
    for who, name in (("best", "winner on test"), ("default", "yours on test")):
        found = [row["accuracy"] for row in material.rows if row["who"] == who]
        if found:
            spread = f"{percent(min(found))} to {percent(max(found))}, {len(found)} seeds"
            cards.append((name, percent(sum(found) / len(found)), spread))
    minutes = sum(float(trial["seconds"]) for trial in material.trials) / 60
    cards.append(("time of all trials", f"{minutes:.1f} min", f"{len(material.trials)} trials"))
    return cards


def _row(trial: Mapping[str, Any], material: StudyMaterial) -> tuple[str, ...]:
    value = "–" if trial["value"] is None else f"{trial['value']:.4f}"
    params = trial["params"]
    own = "yours" if trial["default"] and not params else "–"
    return (
        str(trial["number"]), value, str(trial["state"]), str(trial["epochs"]), f"{float(trial['seconds']) / 60:.1f}",
        *(setting(params[key]) if key in params else own for key in material.ranges),
    )  # fmt: skip


def _plots(material: StudyMaterial) -> dict[str, Plot]:
    """Draws the plots."""
    drawn = [trial for trial in material.trials if trial["values"]][:_MOST_LINES]
    default = next((trial["number"] for trial in material.trials if trial["default"]), None)
    complete = [trial for trial in drawn if trial["params"].keys() == material.ranges.keys()]
    with temporary_folder() as folder:
        found = {}
        if drawn:
            courses = {trial["number"]: trial["values"] for trial in drawn}
            found["courses"] = plots.trial_courses(
                courses, material.monitor, folder / "courses.png", best=material.best, default=default,
                unit=material.unit,
            )  # fmt: skip
        if material.importance:
            found["importance"] = plots.importance_bars(material.importance, folder / "importance.png")
        if len(complete) >= 2:
            found["coordinates"] = plots.parallel_coordinates(
                [(trial["params"], trial["value"]) for trial in complete],
                material.ranges,
                folder / "coordinates.png",
                monitor=material.monitor,
                higher=material.higher,
            )
        return {name: Plot(".svg", path.with_suffix(".svg").read_bytes()) for name, path in found.items()}


def _in_folds(material: StudyMaterial) -> str:
    return "" if material.folds is None else f" in each of {material.folds} folds"


def _space_in_words(values: Any) -> str:
    if isinstance(values, list):
        return ", ".join(map(setting, values))
    how = ", by factors" if values.get("log") else f", in steps of {values['step']:g}" if values.get("step") else ""
    return f"{setting(values['low'])} to {setting(values['high'])}{how}"
