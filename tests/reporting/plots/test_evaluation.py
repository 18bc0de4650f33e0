"""A plot of every evaluation is one registered function: the evaluation draws it, and the report shows it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kcv
from kcv.reporting.plots import evaluation
from kcv.reporting.plots.evaluation import Evaluated, evaluation_plot, evaluation_plots
from kcv.reporting.plots.style import new_figure

if TYPE_CHECKING:
    from kcv.training.run_folder import Run


def test_a_registered_plot_is_drawn_and_reported(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation_plots()  # kcv's own, which are then left out: they take seconds
    monkeypatch.setattr(evaluation, "_PLOTS", {})

    @evaluation_plot("confidences", section="calibration", alt="the confidence of each <image>")
    def _confidences(evaluated: Evaluated, path: Path) -> None:
        with new_figure((3, 3), path) as figure:
            figure.subplots().plot(evaluated.probabilities.max(axis=1))

    @evaluation_plot("nothing", section="results", alt="never drawn")
    def _nothing(evaluated: Evaluated, path: Path) -> None:
        assert evaluated.matrix is not None and evaluated.matrix.sum() == len(evaluated.labels)

    run = tmp_path / "run"
    shutil.copytree(trained_run.directory, run)
    kcv.evaluate(run / "model.keras")
    assert {"confidences.png", "confidences.svg"} <= {path.name for path in (run / "evaluation").iterdir()}
    page = kcv.report(run).page.read_text(encoding="utf-8")
    assert 'alt="the confidence of each &lt;image&gt;"' in page
    assert "never drawn" not in page


def test_names_are_used_once() -> None:
    names = [plot.name for plot in evaluation_plots()]
    assert len(set(names)) == len(names) and evaluation.MISTAKES not in names
    with pytest.raises(AssertionError, match="two evaluation plots are called roc"):
        evaluation_plot("roc")(lambda evaluated, path: None)
