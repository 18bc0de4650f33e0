"""The notebook: valid, without outputs, naming only what there is; and, in the complete set, run from top to bottom."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from warm import PATIENCE

import kcv

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "quickstart.ipynb"
MOST_BYTES = 20_000
NEEDS = "needs nbformat, nbclient and ipykernel, of the development group"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return dict(json.loads(NOTEBOOK.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def nodes(content: dict[str, Any]) -> list[ast.AST]:
    """The syntax trees of all code cells; a cell that is no Python fails here."""
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    return [node for cell in cells for node in ast.walk(ast.parse(cell))]


def calls(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.Call]]:
    """Yields what is called of kcv, `kcv.Config.load` and the like, with the call."""
    for node in nodes:
        if isinstance(node, ast.Call) and re.fullmatch(r"kcv(\.\w+)+", name := ast.unparse(node.func)):
            yield name, node


def test_it_is_a_valid_notebook(content: dict[str, Any]) -> None:
    nbformat = pytest.importorskip("nbformat", reason=NEEDS)
    nbformat.validate(content)


def test_it_is_kept_without_outputs(content: dict[str, Any]) -> None:
    """They are of one machine, and grow with every change; the complete set makes them."""
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert NOTEBOOK.stat().st_size < MOST_BYTES


def test_its_cells_import_only_what_exists(nodes: list[ast.AST]) -> None:
    imported: set[tuple[str, str]] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {(node.module or "", alias.name) for alias in node.names}
    assert ("kcv", "") in imported
    for module, name in imported:
        if module.partition(".")[0] == "IPython":
            pytest.importorskip("IPython", reason=NEEDS)
        assert importlib.util.find_spec(module) is not None, module
        assert not name or hasattr(importlib.import_module(module), name), f"{module} has no {name}"


def test_its_cells_use_names_and_parameters_that_kcv_has(nodes: list[ast.AST]) -> None:
    called: set[str] = set()
    for name, call in calls(nodes):
        function: Any = kcv
        for part in name.split(".")[1:]:
            function = getattr(function, part)
        called.add(name)
        if name == "kcv.Config.load":  # its parameters are keys, which it checks itself
            continue
        given = {keyword.arg for keyword in call.keywords}
        assert given <= set(inspect.signature(function).parameters), name
    assert called >= {"kcv.check", "kcv.Config.load", "kcv.train", "kcv.explain", "kcv.export", "kcv.OnnxModel"}


def test_its_configuration_is_valid(nodes: list[ast.AST]) -> None:
    call = next(call for name, call in calls(nodes) if name == "kcv.Config.load")
    given: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            given |= ast.literal_eval(keyword.value)
        else:
            value = keyword.value
            given[keyword.arg] = "somewhere" if isinstance(value, ast.Call) else ast.literal_eval(value)
    config = kcv.Config.load(**given)
    assert (config.model.name, config.tracking.uri) == ("custom_cnn", "none")


def outputs_of(cell: Any) -> tuple[str, int]:
    """Returns the text that a cell printed, and how many images it shows."""
    text = "".join(output["text"] for output in cell.outputs if output.output_type == "stream")
    images = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    return text, len(images)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own machinery
def test_a_student_can_run_it_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason=NEEDS)
    nbclient = pytest.importorskip("nbclient", reason=NEEDS)
    pytest.importorskip("ipykernel", reason=NEEDS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    ).execute()

    shown = {cell.id: outputs_of(cell) for cell in notebook.cells if cell.cell_type == "code"}
    errors = [
        cell.id for cell in notebook.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"
    ]
    assert errors == []
    assert shown["check-images"][0].startswith("{'train': 1797} images in 10 classes")
    assert "epoch 6/6" in shown["train"][0]
    accuracy = re.search(r"test accuracy ([\d.]+)% \(95% interval", shown["show-quality"][0])
    assert accuracy is not None
    assert float(accuracy[1]) > 90
    wrong = re.search(r"^(\d+) of 180 test images", shown["show-mistakes"][0])
    assert wrong is not None
    drawn = {name for name, (_, images) in shown.items() if images}
    expected = {"write-images", "show-curves", "show-quality", "explain"}
    assert drawn == expected | ({"show-mistakes"} if int(wrong[1]) else set())
    predicted = re.findall(r"^(\d): predicted (\w+), ", shown["predict-onnx"][0], re.MULTILINE)
    assert [true for true, _ in predicted] == list("0123456789")
    assert sum(true == label for true, label in predicted) >= 8
    difference = re.search(r"difference from the Keras model: (\S+)", shown["predict-onnx"][0])
    assert difference is not None
    assert float(difference[1]) <= 1e-5
    assert (work / "runs" / "notebook" / "run" / "model.onnx").is_file()
