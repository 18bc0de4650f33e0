"""The verbs of feature vectors, and figures of sets and views, as a person sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kcv.cli import main
from kcv.cli.render.evaluate import evaluation
from kcv.cli.render.predict import row_line

if TYPE_CHECKING:
    from kcv.tasks.export import Export


def test_vectors_go_to_a_file_and_similar_images_to_the_terminal(
    exported: Export, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, model = images / "test" / "top", f"--model={exported.path}"
    first = folder / "000.png"
    assert main(["embed", str(folder), model, "--output=v.parquet", "--pick=3"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "3 images to label in to_label.csv" in err and "8 rows written to v.parquet" in err
    assert len((tmp_path / "to_label.csv").read_text().splitlines()) == 4
    assert main(["similar", str(first), "--to=v.parquet", "--top=2"]) == 0
    out, _ = capsys.readouterr()
    assert out.split()[:3] == ["image", "similarity", "answered"]
    assert f"of 7 images, like {first}" in out and len(out.splitlines()) == 5 + out.count("----")
    assert main(["similar", str(first), "--to=v.parquet", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compared"] == 7 and found["similar"][0]["similarity"] <= 1
    assert main(["embed", str(first), model]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith(f"{first}  ") and out.strip().endswith("numbers]")
    assert main(["embed", str(first), model, "--format=json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert len(row["vector"]) > 4 and row["error"] == ""


def test_what_is_wrong_is_one_line_and_exit_code_2(
    exported: Export, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image, model = str(images / "test" / "top" / "000.png"), f"--model={exported.path}"
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    for words, told in (
        (["embed", image, model, "--output=v.csv"], "--output: received 'v.csv'"),
        (["embed", image, model, "--pick=0"], "--pick: received '0'"),
        (["similar", image, "--to=rows.parquet"], "rows.parquet: cannot be read as Parquet"),
        (["predict", image, model, "--tta=flop"], "--tta: received 'flop', allowed: flip, five_crop, or a number"),
        (["export", image, "--tta=five_crop"], "--tta: received 'five_crop', allowed: flip"),
        (["evaluate", image, "--coverage=1"], "--coverage: received '1', allowed: a number from 0.01 to 0.9999"),
        (["train", "--coverage=2"], "train.coverage: received"),
    ):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and told in err and "Traceback" not in err
    assert main(["embed", "bad.png", model, "--output=v.parquet"]) == 2
    assert "1 image could not be read; see the rows with an error" in capsys.readouterr().err


def test_sets_and_views_are_shown_with_their_intervals() -> None:
    figures: dict[str, Any] = {
        "split": "test", "n": 10, "accuracy": 0.9, "accuracy_ci95": [0.6, 0.98], "balanced_accuracy": 0.9,
        "macro_f1": 0.9, "macro_f1_ci95": [0.6, 1.0], "top_k_accuracy": {}, "roc_auc_macro": None,
        "average_precision_macro": None, "log_loss": 0.1, "brier": 0.1, "ece": 0.1, "confused_pairs": [],
        "per_class": {"cat": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 10}},
        "prediction_sets": {
            "wanted_coverage": 0.95, "least": 0.1, "coverage": 0.94, "coverage_ci95": [0.9, 0.97], "mean_size": 1.25,
            "single": 0.8, "largest": 2, "lowest_class": "cat", "lowest_class_coverage": 0.875,
        },
        "tta": {
            "name": "flip", "views": 2, "images_per_second": 1234.5, "plain_images_per_second": 2400.0,
            "plain_accuracy": 0.89, "difference_points": 1.0, "difference_ci95_points": [-0.5, 2.5], "p_value": 0.25,
            "differ": False,
        },
    }  # fmt: skip
    text = evaluation(figures, Path("out"))
    assert "sets for 95%" in text and "94.00% hold the right class (95% interval 90.00% to 97.00%)" in text
    assert "1.25 classes on average, 80.00% have one; lowest coverage: cat, 87.50%" in text
    assert "--tta=flip" in text and "+1.00 points (95% interval -0.50 to +2.50, p = 0.25, which may be chance)" in text
    assert "1,234 images/s, without 2,400" in text
    row = {"path": "a.png", "label": "cat", "confidence": 0.7, "error": "", "prediction_set": ["cat", "dog"]}
    assert row_line(row).endswith("{cat, dog}")
