"""`explain` as a person runs it: a line for each image, one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcv.cli import main


@pytest.fixture
def run(trained_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"--model={trained_run.directory}"


@pytest.mark.full
def test_a_line_for_each_image_and_where_the_grid_is(
    run: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(images / "test" / "left"), run, "--output=why"]) == 0
    out, err = capsys.readouterr()
    *lines, last = out.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith(f"{images / 'test' / 'left' / '000.png'}  left  ")
    assert lines[0].endswith("%  why/000_overlay.png, 000_side_by_side.png, 000_heatmap.npy")
    assert last == "side by side: why/grid.png"
    assert Path("why/grid.png").is_file()
    assert "error" not in err


def test_json_lines_and_a_bad_image_among_them(run: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jpg").write_bytes(b"\xff\xd8\xff")
    good = str(images / "test" / "top" / "001.png")
    words = ["explain", good, "bad.jpg", run, "--output=why", "--format=json", "--class_name=top", "--method=gradcam++"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first["label"] == "top"
    assert np.load(first["heatmap"]).shape == (16, 16)
    assert "bad.jpg" in second["error"]
    assert err.splitlines() == ["kcv: error: 1 image could not be read; see the rows with an error."]


def test_a_bad_image_in_text(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["explain", "bad.jpg", run, "--output=why"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("bad.jpg  error: bad.jpg")
    assert not Path("why").exists()


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--class_name=lef", "no class 'lef'. Did you mean 'left'? The classes: centre, left, top."),
        ("--layer=pool", "--layer: no layer 'pool' with height and width. Candidates: "),
        ("--method=gradcan", "allowed: gradcam, gradcam++, hirescam, layercam. Did you mean 'gradcam'?"),
        ("--layers=pool", "unknown option --layers for explain. Did you mean --layer?"),
    ],
)
def test_what_is_not_known_gets_one_line(
    flag: str, says: str, run: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(images / "test" / "left"), run, flag]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert says in line


def test_an_onnx_file_needs_heat_maps(exported: Any, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(images / "test" / "left" / "000.png")
    assert main(["explain", one, f"--model={exported.path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("has no heat maps; `kcv export --heatmaps` adds them.")
    assert main(["explain", one]) == 2
    assert "explain needs --model=MODEL" in capsys.readouterr().err


def test_a_flat_map_is_a_warning_on_its_line() -> None:
    from kcv.cli.render.explain import explanation

    row = {"path": "a.png", "label": "cat", "probability": 0.5, "overlay": "o/a_overlay.png", "error": ""}
    row |= {"side_by_side": "o/a_side_by_side.png", "heatmap": "o/a_heatmap.npy", "warning": "flat map: nothing"}
    assert explanation(row).endswith("a_heatmap.npy  warning: flat map: nothing")
