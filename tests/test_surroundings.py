"""What lies in the working folder, or in the home of another user's Keras, is not obeyed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import kcv.__main__ as start
from kcv.common import backend
from kcv.reporting.plots import style

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("fire", "typing", "__future__", "yaml", "dataclasses", "json", "numpy", "multiprocessing", "sitecustomize")

FOUND = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


@pytest.mark.full
def test_no_module_of_the_working_folder_is_run(tmp_path: Path) -> None:
    """Neither by the process itself nor by one that it starts."""
    canary = tmp_path / "canary"
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write({name!r})\n")
    for words in (["train", "--lr=abc"], ["info", "none.keras"]):
        done = subprocess.run(
            [sys.executable, "-m", "kcv", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr[:11]) == (2, "kcv: error:"), done.stderr
    script = "import sys; sys.path[:] = [p for p in sys.path if p]; from kcv.data.workers import worker_context\n"
    script += "import multiprocessing as m, time; worker_context('json'); p = worker_context('json').Process(target=id)"
    script += "; p._args = (1,); p.start(); p.join(); print(p.exitcode)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"
    assert not canary.exists(), canary.read_text()


def test_a_checkout_stays_importable_as_the_last_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), "/usr/lib"])
    start.leave_working_folder()
    assert sys.path == ["/usr/lib", str(ROOT)]
    assert (os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"]) == (str(ROOT), "1")


def test_what_a_user_has_named_stays_a_place_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path), "/usr/lib"])
    start.leave_working_folder()
    assert sys.path == [str(tmp_path), "/usr/lib"]


@pytest.mark.parametrize("content", [b"text.usetex: True\nfont.size: 40\n", b"\xff\xfe\x00", None])
def test_the_matplotlibrc_of_the_working_folder_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is None:
        os.mkfifo("matplotlibrc")  # would hold whoever opens it
    else:
        Path("matplotlibrc").write_bytes(content)
    imported: list[bool] = []
    if "matplotlib" in sys.modules:
        monkeypatch.delitem(sys.modules, "matplotlib")

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "matplotlib":
                imported.append(os.path.exists("matplotlibrc"))
                raise ImportError(name)

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(ImportError):
        style.load_matplotlib()
    assert imported == [False]
    assert os.path.exists("matplotlibrc")


def test_plots_look_the_same_whatever_a_user_has_set(tmp_path: Path) -> None:
    from kcv.reporting.plots import learning_curves

    rows = [{"epoch": 1.0, "loss": 1.0, "accuracy": 0.5}]
    learning_curves(rows, tmp_path / "a.png")
    matplotlib = style.load_matplotlib()
    with matplotlib.rc_context({"font.size": 40, "lines.linewidth": 9, "savefig.facecolor": "red"}):
        learning_curves(rows, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.fixture
def without_keras() -> Iterator[None]:
    """Takes Keras out of this process, and brings back the one that it had."""

    def take_out() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "keras"}

    before, finders, path = take_out(), list(sys.meta_path), list(sys.path)
    sys.meta_path[:] = [finder for finder in finders if type(finder).__module__ != "kcv.common.backend"]
    yield
    take_out()
    sys.modules.update(before)
    sys.meta_path[:], sys.path[:] = finders, path


@pytest.mark.parametrize("home", [None, "/mine"])
@pytest.mark.usefixtures("without_keras")
def test_keras_is_imported_without_its_file_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    package = tmp_path / "keras"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os\nhome = os.environ['KERAS_HOME']\nfrom keras import config\n")
    setters = "".join(f"def set_{name}(v): found[{name!r}] = v\n" for name in FOUND)
    (package / "config.py").write_text(f"found = {{}}\n{setters}")
    sys.path.insert(0, str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    if home:
        monkeypatch.setenv("KERAS_HOME", home)
    backend.configure_keras()
    backend.configure_keras()
    import keras

    assert (keras.home, os.environ.get("KERAS_HOME")) == (os.devnull, home)  # type: ignore[attr-defined]
    assert keras.config.found == FOUND  # type: ignore[attr-defined]


@pytest.mark.usefixtures("without_keras")
def test_keras_that_is_there_already_is_set_at_once() -> None:
    found: dict[str, object] = {}
    keras = ModuleType("keras")
    setters = {f"set_{name}": functools.partial(found.__setitem__, name) for name in FOUND}
    keras.config = SimpleNamespace(**setters)  # type: ignore[attr-defined]
    sys.modules["keras"] = keras
    backend.configure_keras()
    assert found == FOUND
