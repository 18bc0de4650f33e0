"""Checks, each one command: `nox -s lint typecheck tests kerascv` (the default), `nox -s full`, `coverage`, `faults`,
`build`, `docs`, `smoke`, `reliability`, `node`, `web`.

All sessions but kerascv and docs share one environment: torch alone is several gigabytes. It is the one that `uv run`
uses, so whoever has run kcv or its tests has already made it. What follows `--` goes to the tool:
`nox -s tests -- -k config -x`.
"""

from __future__ import annotations

import tempfile
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
    """Types, by mypy --strict."""
    run(session, "mypy", *session.posargs)


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


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """The wheel and the source archive, in dist/."""
    session.run("uv", "build", *session.posargs, env=ENVIRONMENT, external=True)


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
