"""Who may import whom, and what must not be imported before it is needed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from warm import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kcv"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"errors"},
    {"common"},
    {"stores"},
    {"images", "metrics", "models", "quality.findings"},
    {"data"},
    {"config"},
    {"artifact", "data.augment", "hub", "quality.copies", "tracking"},
    {"data.batches", "data.loading"},
    {"distributed", "quality"},
    {"native"},
    {"inference"},
    {"exporting", "mlflow_model", "models.weights", "saliency"},
    {"benchmark", "reporting", "serving"},
    {"training"},
    {"tuning"},
    {"tasks"},
    {"cli"},
)
"""The rooms of kcv from the ground up: each may import those on the floors below it, and none beside or above it.

A part of a room may stand on a floor of its own. The configuration asks networks and sources for their names; what in
their rooms takes a configuration, or opens model files, stands above it.
"""
ROOMS = frozenset().union(*FLOORS)


def room_of(module: str) -> str:
    """Returns the room that a module is in: `data` for kcv.data.order, and `models.weights` for all below it."""
    parts = module.split(".")[1:]
    return next((room for room in (".".join(parts[:2]), parts[0]) if room in ROOMS), parts[0])


def part_of(path: Path) -> str:
    """Returns the part of kcv that a file belongs to: `data` for kcv/data/order.py."""
    return room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))


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
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {room_of(name) for name in names if name.startswith("kcv.") and name != "kcv.__version__"}
    return found - {part_of(path)}


def test_a_room_imports_only_from_the_floors_below_it(trees: dict[Path, list[ast.AST]]) -> None:
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    problems = []
    for path, nodes in trees.items():
        room = part_of(path)
        if room in ("__init__", "__main__"):
            continue
        assert room in floor_of, f"{path} is in no known room: add it to FLOORS"
        wrong = {other for other in imported_parts(path, nodes) if floor_of[other] >= floor_of[room]}
        if wrong:
            problems.append(f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}")
    assert problems == []


def test_each_floor_names_rooms_that_exist() -> None:
    rooms = {part_of(path) for path in FILES} - {"__init__", "__main__"}
    assert {room for rooms_of_floor in FLOORS for room in rooms_of_floor} == rooms


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
    "tensorboard",
    "wandb",
    "psutil",
    "botocore",
    "boto3",
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
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout == "torch\n"


def test_only_the_guard_imports_what_aborts_in_another_order(trees: dict[Path, list[ast.AST]]) -> None:
    for path, nodes in trees.items():
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.partition(".")[0] for name in names} & {"tensorflow", "keras_cv"}
            assert not found or path == PACKAGE / "data" / "augment" / "keras_cv.py", f"{path} imports {found}"


def test_each_seeded_fault_has_its_place() -> None:
    spec = importlib.util.spec_from_file_location("faults", ROOT / "tests" / "faults.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module  # its dataclass looks for it there
    spec.loader.exec_module(module)
    lost = [fault.name for fault in module.FAULTS if (PACKAGE / fault.path).read_text().count(fault.right) != 1]
    assert lost == [], "the code has changed; tests/faults.py must follow"
    gone = [fault.tests for fault in module.FAULTS if not (ROOT / "tests" / fault.tests).exists()]
    assert gone == [], "tests have moved; tests/faults.py must follow"
