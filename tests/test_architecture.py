"""Who may import whom, and what must not be imported before it is needed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kcv"
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = {
    "cores", "errors", "launch", "names", "config", "files", "leftovers", "progress", "download", "redaction",
    "untrusted",
}  # fmt: skip
"""What every part above them may import."""

INFERENCE = {"artifact", "calibration", "distributed", "inference", "images", "data", "native", "metrics", "plots"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "backend": set(),
    "launch": {"errors"},
    "cores": {"launch"},
    "names": set(),
    "redaction": set(),
    "config": {"errors", "names", "untrusted"},
    "files": {"errors", "leftovers", "untrusted"},
    "leftovers": set(),
    "untrusted": {"errors", "names", "redaction"},
    "progress": {"errors", "launch", "names"},
    "download": {"errors", "files", "untrusted"},
    "images": BASE,
    "pickles": set(),
    "data": BASE | {"images", "pickles"},
    "models": BASE | {"artifact", "pickles"},
    "distributed": BASE | {"data"},
    "native": BASE | {"distributed"},
    "metrics": BASE,
    "plots": BASE | {"metrics"},
    "mistakes": BASE | {"data", "explaining", "plots"},
    "reporting": BASE | {"artifact"},
    "rows": BASE,
    "tracking": BASE,
    "turns": set(),
    "calibration": BASE | {"rows"},
    "inference": BASE | {"data", "distributed", "native"},
    "onnx_graph": BASE,
    "onnx_session": BASE,
    "onnx_model": BASE | {"images", "onnx_graph", "onnx_session"},
    "artifact": BASE | {"calibration", "data", "distributed", "images", "inference", "native"},
    "classifier": BASE | {"artifact", "onnx_model"},
    "training": BASE | INFERENCE | {"evaluation", "models", "reporting", "tracking"},
    "checking": BASE | {"data", "images"},
    "comparison": BASE | INFERENCE | {"classifier", "reporting", "turns"},
    "evaluation": BASE | INFERENCE | {"explaining", "mistakes", "reporting"},
    "explaining": BASE | INFERENCE,
    "exporting": BASE | INFERENCE | {"onnx_model", "onnx_session", "turns"},
    "benchmark": BASE
    | {"artifact", "calibration", "data", "exporting", "images", "models", "native", "onnx_model", "onnx_session"}
    | {"classifier", "distributed", "inference", "turns"},
    "prediction": BASE | {"classifier", "images", "rows"},
    "cli": BASE
    | {"artifact", "benchmark", "checking", "classifier", "comparison", "evaluation", "explaining", "exporting"}
    | {"images", "models", "onnx_model", "prediction", "reporting", "training"},
}


def part_of(path: Path) -> str:
    """Returns the part of kcv that a file belongs to: `data` for kcv/data/folder.py, `cli` for kcv/cli/main.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@pytest.fixture(scope="module")
def trees() -> dict[Path, list[ast.AST]]:
    """The nodes of each file of the package."""
    return {path: list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))) for path in FILES}


def imported_parts(path: Path, nodes: list[ast.AST]) -> set[str]:
    """Returns the other parts of kcv that a file imports, anywhere in it."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which part is meant"
            names = [f"kcv.{alias.name}" for alias in node.names] if node.module == "kcv" else [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("kcv.") and name != "kcv.__version__"}
    return found - {part_of(path)}


def test_a_part_imports_only_what_it_may(trees: dict[Path, list[ast.AST]]) -> None:
    problems = []
    for path, nodes in trees.items():
        part = part_of(path)
        if part in ("__init__", "__main__"):
            continue
        assert part in ALLOWED, f"{path} is of no known part: add it, and what it may import, to ALLOWED"
        if wrong := imported_parts(path, nodes) - ALLOWED[part]:
            problems.append(f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}")
    assert problems == []


def test_the_import_rule_has_no_circle() -> None:
    remaining = {part: set(others) - {part} for part, others in ALLOWED.items()}
    while remaining:
        free = {part for part, others in remaining.items() if not others & remaining.keys()}
        assert free, f"a circle among {sorted(remaining)}"
        remaining = {part: others for part, others in remaining.items() if part not in free}


def test_a_file_stays_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > 250} == {}


def test_only_the_command_line_prints(trees: dict[Path, list[ast.AST]]) -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, nodes in trees.items()
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        and path != PACKAGE / "cli" / "terminal.py"
    ]  # fmt: skip
    assert calls == []


HEAVY = {"keras", "torch", "torchvision", "mlflow", "matplotlib", "sklearn", "onnxruntime", "pyarrow"} | {
    "tensorflow",
    "keras_cv",
}
CASES = {
    "import": "import kcv",
    "configuration": "from kcv import Config; Config.load()",
    "help": "from kcv.cli import main; assert main(['--help']) == 0",
    "help of train": "from kcv.cli import main; assert main(['train', '--help']) == 0",
    "help of explain": "from kcv.cli import main; assert main(['explain', '--help']) == 0",
    "version": "from kcv.cli import main; assert main(['--version']) == 0",
    "unknown flag": "from kcv.cli import main; assert main(['train', '--no_such_flag=1']) == 2",
    "models": "from kcv.cli import main; assert main(['models']) == 0",
    "bad value": "from kcv.cli import main; assert main(['train', '--lr=abc']) == 2",
    "keras-cv's layers": "from kcv.cli import main; "
    "assert main(['train', '--augment.library=keras_cv', '--augment.layers=[3]']) == 2",
    "bad file": "from kcv.cli import main; assert main(['train', 'none.yaml']) == 2",
    "missing model": "from kcv.cli import main; assert main(['info', 'none.keras']) == 2",
}


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """In one process for all cases: what none of them imports, each of them does not."""
    script = "import sys\n"
    for name, code in CASES.items():
        script += f"{code}\nprint({name!r}, *sorted(sys.modules), sep='|', file=sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    told = [line.split("|") for line in done.stderr.splitlines() if line.partition("|")[0] in CASES]
    assert [name for name, *_ in told] == list(CASES)
    assert {name: set(modules) & HEAVY for name, *modules in told} == {name: set() for name in CASES}


def test_kcv_brings_the_torch_backend() -> None:
    script = "import os, kcv; print(os.environ['KERAS_BACKEND'])"
    environment = {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "torch\n"


def test_only_the_guard_imports_what_aborts_in_another_order(trees: dict[Path, list[ast.AST]]) -> None:
    for path, nodes in trees.items():
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.partition(".")[0] for name in names} & {"tensorflow", "keras_cv"}
            assert not found or path == PACKAGE / "data" / "kerascv.py", f"{path} imports {found}"


def test_each_seeded_fault_has_its_place() -> None:
    spec = importlib.util.spec_from_file_location("faults", ROOT / "tests" / "faults.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module  # its dataclass looks for it there
    spec.loader.exec_module(module)
    lost = [fault.name for fault in module.FAULTS if (PACKAGE / fault.path).read_text().count(fault.right) != 1]
    assert lost == [], "the code has changed; tests/faults.py must follow"
