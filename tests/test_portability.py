"""What only some systems have is not taken for granted; and kcv works where it is missing.

No test runs on Windows or macOS: docs/reference/platforms.md says what that leaves open.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from portability import Stubs, problems
from warm import Finished, WarmPython

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "kcv").rglob("*.py"))

WITHOUT = """
import importlib, multiprocessing, os, pkgutil, signal, sys

for name in [name for name in sys.modules if name.partition(".")[0] == "kcv"]:
    del sys.modules[name]  # the process that this one was forked from has it, imported with everything at hand
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in {
    os: "sched_getaffinity sysconf posix_fallocate getuid geteuid getgid O_NOFOLLOW O_NONBLOCK O_DIRECTORY fork",
    signal: "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""
"""The start of a program in a process that lacks what Windows lacks."""

EVERYTHING = """
import kcv
missing = []
for found in pkgutil.walk_packages(kcv.__path__, "kcv."):
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        assert str(error.name).partition(".")[0] != "kcv" and error.name not in sys.modules, found.name
        missing.append(found.name)
from kcv.common import cores, locks
print(len([name for name in sys.modules if name.startswith("kcv.")]), cores.usable_cores() > 0, locks.SUPPORTED)
print("missing", *missing)
"""

TRAIN = """
from kcv.cli import main
data, folder = sys.argv[1:3]
code = main(["train", f"--data={data}", "--model=custom_cnn", "--model.width=0.125", "--data.image_size=16",
             "--epochs=1", "--train.plots=false", "--device=cpu", "--tracking=sqlite:///runs.db", "--output_dir=run"])
code = code or main(["predict", f"{data}/test/left", "--model=run", "--device=cpu", "--format=json"])
print("code", code)
"""


@pytest.fixture(scope="module")
def stubs() -> Stubs:
    mypy = pytest.importorskip("mypy", reason="needs the type stubs that mypy brings")
    return Stubs(Path(mypy.__file__).parent / "typeshed" / "stdlib")


def test_no_file_takes_for_granted_what_only_some_systems_have(stubs: Stubs) -> None:
    found = [f"{path.relative_to(ROOT)}:{problem}" for path in FILES for problem in problems(path, stubs)]
    assert found == [], "guard it (hasattr, os.name, ...), name the encoding, or open the file with O_BINARY"


USES = {
    "import": ("import fcntl\n", "import fcntl"),
    "import from": ("from resource import getrusage\n", "from resource import getrusage"),
    "name of a module": ("import os\nos.sched_getaffinity(0)\n", "os.sched_getaffinity"),
    "name under another name": ("import signal as s\ns.SIGKILL\n", "signal.SIGKILL"),
    "socket": ("import socket\nsocket.AF_UNIX\n", "socket.AF_UNIX"),
    "only Linux": ("import os\nos.posix_fallocate(1, 0, 1)\n", "os.posix_fallocate"),
    "only Windows": ("import msvcrt\n", "import msvcrt"),
    "other meaning": ("import os\nos.kill(1, 0)\n", "os.kill"),
    "keyword": ("import os\nos.stat('x', dir_fd=3)\n", "dir_fd="),
    "method": ("loop.add_signal_handler(2, f)\n", ".add_signal_handler"),
    "path": ("open('/proc/meminfo', encoding='ascii')\n", "/proc/meminfo"),
    "raw file": ("import os\nos.open('x', os.O_RDONLY)\n", "os.open without O_BINARY"),
    "text": ("open('x')\n", "text without encoding: open('x')"),
    "text of a path": ("path.write_text('x')\n", "text without encoding: path.write_text('x')"),
    "text of a process": ("import subprocess\nsubprocess.run('x', text=True)\n", "text without encoding"),
    "path that is not asked for": ("STAT = Path('/proc/stat')\nother.is_file()\n", "/proc/stat"),
    "another guard": ("import os\nif os.path:\n    os.getuid()\n", "os.getuid"),
}


@pytest.mark.parametrize("name", USES)
def test_what_is_looked_for_is_found(name: str, stubs: Stubs, tmp_path: Path) -> None:
    source, expected = USES[name]
    (tmp_path / "module.py").write_text(source, encoding="utf-8")
    (found,) = problems(tmp_path / "module.py", stubs)
    assert re.match(r"\d+: (.*)", found)[1].startswith(expected)  # type: ignore[index]


GUARDED = {
    "import": "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None\nif fcntl is not None:\n    fcntl.flock\n",
    "hasattr": "import os\nx = os.getuid() if hasattr(os, 'getuid') else 0\n",
    "getattr": "import os\nos.open('x', os.O_RDONLY | getattr(os, 'O_BINARY', 0) | getattr(os, 'O_NOFOLLOW', 0))\n",
    "return": "import os\ndef f():\n    if os.name == 'nt':\n        return\n    os.kill(1, 0)\n",
    "caught": "import os\ntry:\n    os.statvfs('x')\nexcept (AttributeError, OSError):\n    pass\n",
    "suppressed": "with contextlib.suppress(NotImplementedError):\n    loop.add_signal_handler(2, f)\n",
    "text": "open('x', encoding='utf-8')\nopen('x', 'rb')\npath.open('wb')\npath.read_text('utf-8')\n",
    "another open": "Image.open(file)\nshard.open()\n",
    "a path that is asked for": "STAT = Path('/proc/stat')\nif STAT.is_file():\n    STAT.read_bytes()\n",
    "a docstring": '"""/proc/self is a place."""\n',
}


@pytest.mark.parametrize("name", GUARDED)
def test_what_is_guarded_is_left_alone(name: str, stubs: Stubs, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(GUARDED[name], encoding="utf-8")
    assert problems(tmp_path / "module.py", stubs) == []


def test_all_of_kcv_can_be_imported_where_posix_is_missing(warm: WarmPython, tmp_path: Path) -> None:
    done = _run(warm, tmp_path, WITHOUT + EVERYTHING)
    assert done.returncode == 0, done.stderr
    count, *rest = done.stdout.splitlines()[-2].split()
    assert (int(count) > 400, rest) == (True, ["True", "False"])


@pytest.mark.long
def test_a_training_and_a_prediction_where_posix_is_missing(images: Path, warm: WarmPython, tmp_path: Path) -> None:
    """Among the rest: a run folder and an outbox without locks, a cache without an owner, cores without affinity."""
    done = _run(warm, tmp_path, WITHOUT + TRAIN, images, tmp_path)
    assert done.stdout.splitlines()[-1:] == ["code 0"], done.stderr
    assert (tmp_path / "run" / "model.keras").is_file()
    assert "Traceback" not in done.stderr


def _run(warm: WarmPython, folder: Path, program: str, *words: object) -> Finished:
    (folder / "program.py").write_text(program, encoding="utf-8")
    return warm.start(str(folder / "program.py"), words, folder=folder).finished()
