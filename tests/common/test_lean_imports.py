"""What Keras can do without is not imported with it in kcv's own processes, and is there for everybody else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kcv.common import lean_imports
from kcv.common.lean_imports import OPTIONAL, lean

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules in place of those that are kept out, which are as if they had never been imported."""
    for name in OPTIONAL:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").touch()
    compiler = tmp_path / "a_compiler"
    compiler.mkdir()
    (compiler / "__init__.py").write_text(
        "calls = []\n"
        "def disable(fn, recursive=True):\n"
        "    def called(*values):\n"
        "        calls.append((fn.__name__, recursive))\n"
        "        return fn(*values)\n"
        "    return called\n"
        "def reset():\n"
        "    return 'reset'\n"
    )
    (compiler / "settings.py").touch()
    monkeypatch.setattr(lean_imports, "_COMPILER", "a_compiler")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in {*OPTIONAL, *(name for name in set(sys.modules) - before if name.startswith("a_compiler"))}:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("packages")
def test_optional_packages_are_missing_in_the_block_and_found_after_it() -> None:
    with lean():
        for name in OPTIONAL:
            with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
                importlib.import_module(name)
        importlib.import_module("json")
    for name in OPTIONAL:
        importlib.import_module(name)


@pytest.mark.usefixtures("packages")
def test_what_is_imported_already_stays() -> None:
    pandas = importlib.import_module("pandas")
    with lean():
        assert importlib.import_module("pandas") is pandas


def _decorated() -> list[str]:
    """Uses the compiler as Keras does: by its decorator, with an argument or without."""
    compiler = importlib.import_module(lean_imports._COMPILER)

    @compiler.disable()
    def one(text: str) -> str:
        return f"one {text}"

    def two(text: str) -> str:
        return f"two {text}"

    @compiler.disable(None, False)
    def three(text: str) -> str:
        return f"three {text}"

    functions = [one, compiler.disable(two, False), three]
    assert all(function._torchdynamo_disable for function in functions)
    assert [function.__name__ for function in functions] == ["one", "two", "three"]
    _decorated.functions = functions  # type: ignore[attr-defined]
    return [function("here") for function in functions]


@pytest.mark.usefixtures("packages")
def test_the_decorator_works_without_the_compiler_and_calls_it_once_it_is_there() -> None:
    with lean():
        assert _decorated() == ["one here", "two here", "three here"]
    stand_in = sys.modules["a_compiler"]
    assert not hasattr(stand_in, "__file__")
    assert stand_in.reset() == "reset"
    compiler = sys.modules["a_compiler"]
    assert compiler is not stand_in and compiler.calls == []
    functions = _decorated.functions  # type: ignore[attr-defined]
    assert [function("there") for function in functions] == ["one there", "two there", "three there"]
    assert compiler.calls == [("one", True), ("two", False), ("three", False)]


@pytest.mark.usefixtures("packages")
def test_a_module_of_the_compiler_brings_the_compiler() -> None:
    with lean():
        pass
    settings = importlib.import_module("a_compiler.settings")
    assert settings.__file__ and hasattr(sys.modules["a_compiler"], "calls")


def test_a_compiler_that_is_there_is_not_replaced(packages: Path) -> None:
    compiler = importlib.import_module("a_compiler")
    with lean():
        assert sys.modules["a_compiler"] is compiler


@pytest.mark.parametrize(("first", "found"), [("leave_out_optional()", False), ("", True)])
def test_a_command_imports_keras_without_them_and_a_user_with_them(first: str, found: bool) -> None:
    script = (
        "import sys\n"
        "from kcv.common.backend import leave_out_optional\n"
        f"{first}\n"
        "import keras\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])\n"
        "model(keras.random.uniform((1, 4)), training=True)\n"
        "print(sorted({'pandas', 'sklearn', 'matplotlib', 'cv2', 'torch._dynamo.eval_frame'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (done.stdout != "[]\n") == found
