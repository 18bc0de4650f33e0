"""Checks, each one command: `nox -s lint typecheck tests kerascv` (the default), `nox -s full`, `coverage`, `faults`,
`build`, `lowest`, `docs`, `smoke`, `reliability`, `node`, `web`.

All sessions but kerascv, lowest, build and docs share one environment: torch alone is several gigabytes. It is the one
that `uv run` uses, so whoever has run kcv or its tests has already made it. What follows `--` goes to the tool:
`nox -s tests -- -k config -x`.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "typecheck", "tests", "kerascv"]
nox.options.error_on_external_run = False

ENVIRONMENT: dict[str, str | None] = {
    # `import keras` takes 18 s without bytecode and 6 s with it: compile on install, and write what is missing.
    "UV_COMPILE_BYTECODE": "1",
    "PYTHONDONTWRITEBYTECODE": None,
    # nox may itself run inside some environment; the project's own is meant.
    "VIRTUAL_ENV": None,
}


PYTHONS = ("3.11", "3.12", "3.13")
"""The versions of Python that kcv is tested with."""
SYSTEMS = ("linux", "darwin", "win32")
OTHERS_WARNINGS = (
    "DeprecationWarning",  # of old packages that use new ones
    "PendingDeprecationWarning",
    "FutureWarning",
    "ResourceWarning",  # sockets that MLflow's old client leaves open
    "pytest.PytestUnraisableExceptionWarning",
)
"""What old versions of other packages give rise to: the tests with the newest versions see kcv's own."""


def run(session: nox.Session, *command: str) -> None:
    """Runs a command in the project's environment, which uv makes or brings up to date first."""
    session.run("uv", "run", *command, env=ENVIRONMENT, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting, by ruff."""
    run(session, "ruff", "check", *(session.posargs or ["."]))
    run(session, "ruff", "format", "--check", *(session.posargs or ["."]))


@nox.session
def typecheck(session: nox.Session) -> None:
    """Types, by mypy --strict: as they are on Linux, macOS and Windows, whose standard libraries differ."""
    for system in SYSTEMS:
        run(session, "mypy", f"--platform={system}", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The fast set of tests: everything that a change can break, in minutes."""
    run(session, "pytest", *session.posargs)


@nox.session(default=False)
def full(session: nox.Session) -> None:
    """The complete set: the fast one, true-size networks, torchrun, 20 kills, flat memory and long fuzzing."""
    environment = {**ENVIRONMENT, "KCV_KILLS": "20", "KCV_LONG": "1", "KCV_FUZZ_SECONDS": "600"}
    session.run("uv", "run", "pytest", "--full", *session.posargs, env=environment, external=True)


@nox.session
def kerascv(session: nox.Session) -> None:
    """Augmentation by keras-cv, with its extra, in an environment of its own: no other session has tensorflow."""
    environment = {**ENVIRONMENT, "UV_PROJECT_ENVIRONMENT": str(Path(".nox", "kerascv").absolute())}
    places = ("data/kerascv", "config/test_layers.py", "benchmark/test_data.py", "training/resume/test_resume.py")
    tests = session.posargs or (*(f"tests/{place}" for place in places), "-k", "not test_resume or keras_cv")
    session.run("uv", "run", "--extra", "kerascv", "pytest", *tests, env=environment, external=True)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Both sets of tests but for the half-hour parts, with the lines that no test runs."""
    run(session, "pytest", "--full", "--cov", "--cov-report=term-missing:skip-covered", *session.posargs)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Makes one mistake after the other in a copy of the tree, each of which the fast set must find."""
    run(session, "python", "tests/faults.py", *session.posargs)


def python_of(session: nox.Session, version: str) -> str | None:
    """Returns an interpreter of this version, from pyenv or as uv finds it; None if the machine has none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    if found := sorted(pyenv.glob(f"versions/{version}.*/bin/python")):
        return str(found[-1])
    command = ("uv", "python", "find", "--no-python-downloads", "--system", version)
    told = session.run(*command, silent=True, external=True, success_codes=[0, 1, 2])
    path = str(told).strip().rpartition("\n")[2]
    return path if Path(path).is_file() else None


def inside(environment: Path, program: str) -> str:
    """Returns the path of a program of an environment."""
    windows = environment / "Scripts" / f"{program}.exe"
    return str(windows if windows.exists() else environment / "bin" / program)


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """The fast set with the oldest versions that pyproject.toml allows, on each Python that this machine has."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = ",".join(sorted(set(project["optional-dependencies"]) - {"kerascv"}))
    versions = {version: python_of(session, version) for version in PYTHONS}
    for version, python in versions.items():
        if python is None:
            session.warn(f"there is no Python {version} on this machine: not tested")
            continue
        place = Path(".nox", f"lowest-{version}").absolute()
        if not place.exists():
            session.run("uv", "venv", "--python", python, str(place), env=ENVIRONMENT, external=True)
        install = ("uv", "pip", "install", "--python", str(place), "--resolution", "lowest-direct")
        session.run(*install, "--editable", f".[{extras}]", "--group", "dev", env=ENVIRONMENT, external=True)
        ignored = [word for name in OTHERS_WARNINGS for word in ("-W", f"default::{name}")]
        command = (inside(place, "python"), "-m", "pytest", *ignored, *session.posargs)
        session.run(*command, env=ENVIRONMENT, external=True)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """The wheel and the source archive, in dist/; each is installed in an empty environment, and run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session.run("uv", "build", "--out-dir", str(folder), *session.posargs, env=ENVIRONMENT, external=True)
        (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        with zipfile.ZipFile(wheel) as opened:
            require_files(session, wheel, set(opened.namelist()))
        with tarfile.open(archive) as packed:
            require_files(session, archive, {member.partition("/")[2] for member in packed.getnames()})
        for package in (wheel, archive):
            use(session, package, folder / f"try-{package.suffix[1:]}")
            Path("dist").mkdir(exist_ok=True)
            (Path("dist") / package.name).write_bytes(package.read_bytes())


def require_files(session: nox.Session, package: Path, there: set[str]) -> None:
    """Fails unless a package has all files of kcv, not only those of Python."""
    told = session.run("git", "ls-files", "kcv", "configs", silent=True, external=True)
    expected = set(str(told).split())
    if package.suffix == ".whl":
        expected = {f"kcv/{name}" if name.startswith("configs/") else name for name in expected}
    missing = sorted(expected - there)
    if missing:
        session.error(f"{package.name} lacks {', '.join(missing)}")


def use(session: nox.Session, package: Path, folder: Path) -> None:
    """Installs a package in an empty environment, and trains, predicts and exports from a folder without the source."""
    place, work = folder / "environment", folder / "work"
    work.mkdir(parents=True)
    session.run("uv", "venv", str(place), env=ENVIRONMENT, external=True)
    session.run("uv", "pip", "install", "--python", str(place), f"{package}[serve]", env=ENVIRONMENT, external=True)
    kcv = (inside(place, "kcv"),)
    toy = ("configs/quickstart.yaml", "--model.width=0.125", "--epochs=1", "--tracking=none")
    with session.chdir(work):
        here = {**ENVIRONMENT, "PYTHONPATH": None}
        for words in (
            ("--help",),
            ("models",),
            ("train", *toy, "--output_dir=run"),
            ("export", "run"),
            ("predict", "run/evaluation/confusion_matrix.png", "--model=run"),
            ("predict", "run/evaluation/confusion_matrix.png", "--model=run/model.onnx"),
            ("serve", "--help"),
        ):
            session.run(*kcv, *words, env=here, external=True)
        for file in ("run/report.html", "run/MODEL_CARD.md", "run/model.onnx"):
            if not Path(file).is_file():
                session.error(f"{package.name}: {file} was not written")
        python = inside(place, "python")
        session.run(python, "-m", "kcv", "--version", env=here, external=True)
        session.run(python, "-c", "from kcv.serving.page import page; page()", env=here, external=True)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The documentation as a site, in build/docs; a link or a reference that leads nowhere fails it."""
    # Docstrings are read from the source, so its environment has neither torch nor Keras.
    environment = {
        **ENVIRONMENT,
        "UV_PROJECT_ENVIRONMENT": str(Path(".nox", "docs").absolute()),
        "NO_MKDOCS_2_WARNING": "1",
    }
    command = ("mkdocs", "build", "--strict", "--config-file", "docs/site/mkdocs.yml")
    session.run("uv", "run", "--only-group", "docs", *command, *session.posargs, env=environment, external=True)


@nox.session(default=False)
def smoke(session: nox.Session) -> None:
    """The main job through the command line: train on digits, look, evaluate, predict, export."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "run"
        model = str(where / "model.keras")
        kcv = ("python", "-m", "kcv")
        tracking = f"--tracking=sqlite:///{folder}/mlflow.db"
        options = (f"--output_dir={where}", "--epochs=2", tracking, *session.posargs)
        run(session, *kcv, "train", "configs/quickstart.yaml", *options)
        run(session, *kcv, "info", model)
        run(session, *kcv, "evaluate", model)
        run(session, *kcv, "predict", "docs/digit.png", f"--model={model}")
        run(session, *kcv, "export", model)
        run(session, *kcv, "predict", "docs/digit.png", f"--model={where / 'model.onnx'}")


@nox.session(default=False)
def reliability(session: nox.Session) -> None:
    """20 kills; 200 epochs and 50,000 predictions in flat memory; ten minutes of random bytes for what reads files."""
    environment = {**ENVIRONMENT, "KCV_KILLS": "20", "KCV_LONG": "1", "KCV_FUZZ_SECONDS": "600"}
    tests = ("tests/training/resume", "tests/test_memory.py", "tests/hostile")
    session.run("uv", "run", "pytest", "--full", "-s", "-n0", *tests, *session.posargs, env=environment, external=True)


@nox.session(default=False)
def node(session: nox.Session) -> None:
    """The JavaScript example of docs/node, with the packages that it needs."""
    session.run("npm", "install", "--prefix", "docs/node", "--no-audit", "--no-fund", env=ENVIRONMENT, external=True)
    run(session, "pytest", "tests/test_deploy.py", *session.posargs)


@nox.session(default=False)
def web(session: nox.Session) -> None:
    """The page of docs/web, with the package that it needs, in a headless Chromium."""
    session.run("npm", "install", "--prefix", "docs/web", "--no-audit", "--no-fund", env=ENVIRONMENT, external=True)
    run(session, "pytest", "tests/test_web.py", *session.posargs)
