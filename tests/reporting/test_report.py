"""Reports: what they say, that they hold together without anything else, and that no name becomes markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from warm import PATIENCE

from kcv import artifact, report
from kcv.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from kcv.training.run_folder import Run

EVIL = "<script>alert(1)</script> \"&'|`*"


@pytest.fixture
def run(trained_run: Run, tmp_path: Path) -> Path:
    """A copy of a finished run that a test may write to."""
    shutil.copytree(trained_run.directory, tmp_path / "run")
    return tmp_path / "run"


class Strict(HTMLParser):
    """Notes tags that are not closed, and all that a browser would load."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: Path) -> Strict:
    parser = Strict()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


def test_training_leaves_a_report_that_says_what_the_files_say(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((run / "metrics.json").read_text())
    low, high = metrics["accuracy_ci95"]
    assert f"{metrics['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})" in text
    for name, scores in metrics["per_class"].items():
        assert f"<td>{name}</td>" in text
        assert f">{scores['recall']:.4f}</td>" in text
    info = artifact.read_info(run / "model.keras")
    assert info.data_fingerprint[:16] in text
    assert f"temperature {info.calibration.temperature:.3f}" in text
    # learning curves, confusion matrix, ROC and reliability, and the mistakes where there are any
    assert text.count("<img ") == 4 + (run / "evaluation" / "mistakes.png").exists()
    assert "kcv train" in text
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] in text


def test_a_report_needs_nothing_but_itself(run: Path) -> None:
    page = parsed(report(run).page)
    assert page.loads
    assert all(address.startswith("data:") for address in page.loads)
    assert "script" not in page.tags


def test_the_same_run_gives_the_same_report(run: Path) -> None:
    first = report(run).page.read_bytes()
    assert report(run).page.read_bytes() == first


def test_what_is_missing_is_left_out(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run / "model.keras", alone)
    made = report(alone)
    text = made.page.read_text(encoding="utf-8")
    parsed(made.page)
    assert "<h2>Results</h2>" in text  # the model file itself knows them
    assert "Learning curves" not in text
    assert "Reproduce" not in text
    assert "<img" not in text


def test_names_are_shown_and_never_become_markup(run: Path, tmp_path: Path) -> None:
    path = run / "model.keras"
    info = artifact.read_info(path)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text().replace('"left"', json.dumps(EVIL)))
    (run / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    names = tuple(EVIL if name == "left" else name for name in info.class_names)
    config = {**info.config, "name": EVIL}
    artifact.describe_again(path, info.model_copy(update={"class_names": names, "data_name": EVIL, "config": config}))
    (run / "config.yaml").write_text(f"name: {EVIL}\n")
    made = report(run, tmp_path / "out")
    page = parsed(made.page)
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made.page.read_text(encoding="utf-8")
    card = made.card.read_text(encoding="utf-8")
    assert "<script>" not in card.replace("\\<script\\>", "")
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {6}


def test_measured_explanations_are_in_the_page(run: Path) -> None:
    assert "heat maps can be trusted" not in report(run).page.read_text()
    row = {"deletion_auc": 0.1234, "insertion_auc": 0.8, "rank_correlation": None, "flat": 0.0}
    (run / "evaluation" / "explanations.json").write_text(json.dumps({"pictures": 64, "methods": {"gradcam": row}}))
    page = report(run).page.read_text()
    assert "<td>gradcam</td><td>0.1234</td><td>0.8000</td><td>–</td><td>0.0000</td>" in page
    assert "Measured on 64 images" in page


def test_a_model_card_says_what_the_run_came_to(run: Path) -> None:
    card = report(run).card.read_text(encoding="utf-8")
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"accuracy {metrics['accuracy']:.2%}" in card
    assert "## Intended use and limits" in card
    assert artifact.read_info(run / "model.keras").data_fingerprint in card


def test_no_run_and_damaged_files_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such run"):
        report(tmp_path / "nothing")
    (run / "evaluation" / "metrics.json").write_text("{")
    before = (run / "report.html").read_bytes()
    with pytest.raises(DataError, match=r"metrics\.json: is damaged"):
        report(run)
    assert (run / "report.html").read_bytes() == before


def browsed(page: Path, folder: Path) -> tuple[str, list[str], list[str]]:
    """Opens a page in headless Chromium: what it became, what was written to the console, and what it asked for."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    log = folder / f"{page.stem}.net.json"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--disable-background-networking",
        "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    # What Chromium itself asks for has no origin.
    asked = [
        event
        for event in log.read_text().splitlines()
        if '"initiator"' in event and '"initiator":"not an origin"' not in event
    ]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


def test_a_browser_opens_it_and_neither_complains_nor_asks_for_anything(run: Path, tmp_path: Path) -> None:
    became, console, asked = browsed(run / "report.html", tmp_path)
    assert "<h2>Results</h2>" in became
    assert (console, asked) == ([], [])
    # The same two checks see what a worse page does.
    worse = tmp_path / "worse.html"
    worse.write_text('<img src="http://127.0.0.1:9/a.png"><script>console.error("bad")</script>')
    _, console, asked = browsed(worse, tmp_path)
    assert console
    assert asked
