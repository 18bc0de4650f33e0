"""Reports of run folders that anybody may have written: nothing of elsewhere, no markup, and no traceback."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kcv import artifact, report
from kcv.errors import ArtifactError, DataError, KcvError
from kcv.reporting.markdown import literal
from kcv.reporting.material import known_history

if TYPE_CHECKING:
    from kcv.training.run_folder import Run

SECRET = "hunter2 is my key"


@pytest.fixture
def run(trained_run: Run, tmp_path: Path) -> Path:
    """The files of a finished run that a report reads, for a test to write to."""
    folder = tmp_path / "run"
    (folder / "evaluation").mkdir(parents=True)
    names = ("model.keras", "config.yaml", "history.csv", "environment.json", "evaluation/metrics.json")
    for name in (*names, "evaluation/mistakes.json", "evaluation/roc.svg"):
        shutil.copy(trained_run.directory / name, folder / name)
    return folder


@pytest.mark.parametrize("name", ["config.yaml", "history.csv", "environment.json", "evaluation/roc.svg"])
def test_a_linked_file_is_left_out(name: str, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "secret")
    with caplog.at_level(logging.WARNING, "kcv"):
        text = report(run).page.read_text()
    assert "hunter2" not in text
    assert "aHVudGVyMi" not in text  # the same in base64
    assert f"{name}: is a link, which is not followed here; left out" in caplog.text


def test_linked_figures_and_folders_are_refused(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(run / "evaluation", elsewhere)
    (run / "evaluation").symlink_to(elsewhere)
    with pytest.raises(DataError, match="evaluation: is a link, which is not followed here"):
        report(run)
    (run / "evaluation").unlink()
    (run / "evaluation").mkdir()
    (run / "evaluation" / "metrics.json").symlink_to(elsewhere / "metrics.json")
    with pytest.raises(DataError, match=r"metrics\.json: is a link"):
        report(run)


DEEP = b"[" * 100_000
ODD: dict[str, list[bytes]] = {
    "config.yaml": [b"\xff\xfe", b"x" * 2_000_000],
    "history.csv": [
        b"\xff", b"epoch,b\n1,x\n", b"epoch,b\n1\n", b"epoch\n1,2\n", DEEP, b'epoch\n"' + b"1" * 200_000, b"\0,\n1,2",
    ],
    "environment.json": [b"", b"[]", DEEP, b'{"packages": [1]}', b'{"packages": {"a": 1}}', b'{"weights": [1]}'],
    "evaluation/mistakes.json": [
        b"[1]", b'{"mistakes": [1]}', b'{"mistakes": {}}', b'{"mistakes": [{}]}', DEEP,
        b'{"mistakes": [{"picture": 1, "true": "a", "predicted": "b", "confidence": 0.5}]}',
        b'{"mistakes": [{"picture": "a", "true": "a", "predicted": "b", "confidence": "x"}]}',
    ],
    "evaluation/explanations.json": [
        b"1", b'{"methods": [1]}', b'{"methods": {"a": 1}}', b'{"pictures": "x", "methods": {}}', DEEP,
        b'{"pictures": 1, "methods": {"a": {"flat": "x"}}}', b'{"pictures": 1, "methods": {"a": {"flat": NaN}}}',
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_damaged_file_is_left_out_and_the_rest_is_reported(
    name: str, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for content in ODD[name]:
        (run / name).write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "kcv"):
            text = report(run).page.read_text()
        assert "<h2>Results</h2>" in text
        (message,) = [record.getMessage() for record in caplog.records]
        assert message.startswith(str(run / name)) and message.endswith("; left out") and "\n" not in message


@pytest.mark.parametrize("content", [b"", DEEP, b"[]", b'{"accuracy": 1}', b'{"split": "test", "n": "x"}', b"\xff"])
def test_damaged_figures_are_told_and_the_report_of_before_stays(content: bytes, run: Path) -> None:
    (run / "evaluation" / "metrics.json").write_bytes(content)
    (run / "report.html").write_text("before")
    with pytest.raises(DataError, match=r"metrics\.json: ") as caught:
        report(run)
    assert "\n" not in str(caught.value)
    assert (run / "report.html").read_text() == "before"


def test_what_may_not_be_read_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kcv.common.untrusted.os.open", closed)
    with pytest.raises(KcvError, match="cannot be read: Permission denied"):
        report(run)
    with pytest.raises(ArtifactError, match="cannot be read: Permission denied"):
        report(run / "model.keras")


def test_a_folder_without_a_history_has_none(tmp_path: Path) -> None:
    assert known_history(tmp_path) == known_history(tmp_path / "none") == []


def test_names_of_files_that_are_no_utf8_are_shown(run: Path) -> None:
    row = {"picture": "a\udc80.png", "true": "left", "predicted": "top", "confidence": 0.5}
    (run / "evaluation" / "mistakes.json").write_text(json.dumps({"mistakes": [row]}))
    assert "a\\udc80.png" in report(run).page.read_text()


def test_ten_thousand_classes_make_a_short_report(run: Path) -> None:
    info = artifact.read_info(run / "model.keras")
    assert info.metrics is not None
    names = [f"class number {number}" for number in range(10_000)]
    scores = info.metrics["per_class"]["left"]
    figures: dict[str, Any] = {**info.metrics, "per_class": dict.fromkeys(names, scores)}
    artifact.describe_again(
        run / "model.keras", info.model_copy(update={"class_names": tuple(names), "metrics": figures})
    )
    (run / "evaluation" / "metrics.json").unlink()
    made = report(run)
    assert made.card.stat().st_size < 100_000 and made.page.stat().st_size < 500_000
    assert "and 9,800 more" in made.card.read_text()


MARKUP = {
    "<script>alert(1)</script>": r"\<script\>alert(1)\</script\>",
    "&lt;b&gt;": r"\&lt;b\&gt;",
    "[a](javascript:b)": r"\[a\](javascript:b)",
    "![a](http://x/y.png)": r"\!\[a\](http\://x/y.png)",
    "see www.example.org": r"see www\.example.org",
    "a@b.org ~x~ $y$ `z` *w* _v_ | #u": r"a\@b.org \~x\~ \$y\$ \`z\` \*w\* \_v\_ \| \#u",
    "one\n# two\u2028three": r"one \# two three",
    "\x1b[2J": r"\\x1b\[2J",
}


def test_text_of_others_is_no_markup_in_a_card() -> None:
    assert {text: literal(text) for text in MARKUP} == MARKUP


def test_markup_in_any_text_of_a_description_stays_text(run: Path, tmp_path: Path) -> None:
    evil = "x <script>alert(1)</script> ![a](http://x/y)"
    path = run / "model.keras"
    info = artifact.read_info(path)
    assert info.metrics is not None
    texts = dict.fromkeys(("model_name", "variant", "precision", "data_name", "data_fingerprint"), evil)
    changes: dict[str, Any] = {**texts, "metrics": {**info.metrics, "split": evil}, "versions": {evil: evil}}
    artifact.describe_again(path, info.model_copy(update={**changes, "config": {"name": evil}}))
    shutil.rmtree(run / "evaluation")
    (run / "environment.json").write_text(json.dumps({"weights": evil, "command": evil, "packages": {evil: evil}}))
    made = report(run, tmp_path / "out")
    for text in (made.page.read_text(), made.card.read_text().replace("\\<script\\>", "")):
        assert "<script>" not in text
        assert "![a](" not in text or "<!doctype" in text
