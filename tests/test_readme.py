"""The documents, held against the code: commands and lines of Python run as they stand there, and names are real ones.

Those of the README and of the guides run in a folder with toys of the names that they use: small images in `photos` and
`new_photos`, and in `configs` the shipped files with less to do. What needs a network, a server or several processes is
left out, see `LEFT_OUT`; the complete set runs the quick start on its real configuration as well.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from warm import Finished, WarmPython

from kcv.config import Config

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PYTHON = ROOT / "docs" / "guides" / "python.md"
PAGES = [README, *GUIDES]
DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [path for path in dict.fromkeys(DOCUMENTS) if "node_modules" not in path.parts]
MOST_WORDS = 1200
LEFT_OUT = {
    r"^git clone|^cd ": "needs a network",
    r"^python -m venv|^pip install (?!uv && uv run python)|^npm ": "needs a package registry",
    r"mlflow ui|mlflow models serve": "is a server",
    r"--heatmaps|why_onnx": "needs more than 16 px: tests/exporting/test_heatmaps.py",
    r"kcv serve|^curl|^openssl": "a server and its clients: tests/serving/test_guide.py",
    r"s3://|hf:|^hf |--download": "needs a network",
    r"^torchrun|^uv run torchrun": "several processes: tests/distributed",
    r"^uv run (pytest|nox)": "the tests themselves",
    r"--augment\.library=keras_cv": "needs the extra kcv[kerascv]",
    r"tensorboard|wandb": "needs an extra: tests/tracking",
}
RUN_ELSEWHERE = (
    "onnxruntime.InferenceSession", "http://127.0.0.1", "mlflow.pyfunc", "MlflowClient", "snapshot_download",
)  # fmt: skip
"""In tests/test_deploy.py, tests/serving, tests/tasks/test_registered_models.py, tests/tasks/test_push.py."""
SMALL = {"data.image_size": 16, "model.name": "custom_cnn", "model.width": 0.125, "model.unfreeze_after": 0,
         "model.mode": "fine_tuning", "model.feature_views": None, "augment.crop_padding": 1,
         "train.epochs": 6, "train.plots": False, "tracking.uri": "none",
         "optim.warmup_epochs": 0.5, "optim.warmup_fraction": None, "optim.lr": 5e-3,
         "data.batch_size": 16}  # fmt: skip


QUICK = {"--model": "custom_cnn", "--model.width": 0.125, "--data.image_size": 16, "--epochs": 1, "--tracking": "none",
         "--train.plots": "false"}  # fmt: skip
"""Flags of a training without a configuration file."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """Returns the command lines of a page's shell blocks, each as typed."""
    lines = [re.split(r"\s+#", line)[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


def words_of(command: str) -> list[str] | None:
    """Returns what a command gives to kcv; None where it is left out."""
    if any(re.search(pattern, command) for pattern in LEFT_OUT):
        return None
    found = re.fullmatch(r"(?:pip install uv && )?(?:uv run )?(?:python -m )?kcv (.*)", command)
    assert found, f"is no command of kcv, nor left out: {command}"
    words = shlex.split(found[1])
    given = {word.partition("=")[0] for word in words}
    configured = any(word.endswith(".yaml") for word in words) or {"--model", "--resume"} & given
    if words[0] == "train" and not configured:
        # What it would choose for these images takes minutes; tests/training/test_automatic.py looks at the choice.
        words = [word for word in words if not word.startswith("--minutes")]
        words += [f"{flag}={value}" for flag, value in QUICK.items() if flag not in given]
    return words


def code(page: Path) -> str:
    """Returns a page's lines of Python that need nothing but kcv."""
    return "\n".join(block for block in blocks(page, "python") if not any(word in block for word in RUN_ELSEWHERE))


def pack(folder: Path) -> None:
    """Writes the photos of a folder as a label file, as an archive, as shards, and as rows of Parquet."""
    files = sorted((folder / "photos").rglob("*.png"))
    rows = [(file.relative_to(folder).as_posix(), *file.parent.parts[-1:-3:-1]) for file in files]
    (folder / "photos.csv").write_text("\n".join(map(",".join, [("path", "label", "split"), *rows])))
    shutil.make_archive(str(folder / "photos"), "zip", folder, "photos")
    (folder / "shards").mkdir()
    for number in range(2):
        with tarfile.open(folder / "shards" / f"train-{number:03}.tar", "w") as shard:
            for i, (path, label, _) in enumerate(rows[number::2]):
                (folder / "shards" / "key.cls").write_text(label)
                shard.add(folder / path, f"{i:04}.png")
                shard.add(folder / "shards" / "key.cls", f"{i:04}.cls")
    (folder / "shards" / "key.cls").unlink()
    images = [file.read_bytes() for file in files]
    labels = {"fine_label": [label for _, label, _ in rows], "coarse_label": [0] * len(rows)}
    pq.write_table(pa.table({"image": images, **labels}), folder / "rows.parquet")


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the reader has it, but of toys."""
    folder = tmp_path_factory.mktemp("documents")
    for split in ("train", "val", "test"):
        for name, given in (("cat", "centre"), ("dog", "left"), ("ship", "top")):
            shutil.copytree(images / split / given, folder / "photos" / split / name)
    (folder / "new_photos").mkdir()
    for path in sorted((images / "test" / "left").iterdir())[:3]:
        shutil.copy(path, folder / "new_photos")
    for name in ("a.jpg", "b.jpg", "one.png", "two.png"):
        shutil.copy(images / "test" / "top" / "000.png", folder / name)
    for page in PAGES:  # the files of Python that they show
        for block in blocks(page, "python"):
            if named := re.match(r"# (\w+\.py)\n", block):
                (folder / named[1]).write_text(block)
    pack(folder)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "digit.png", folder / "docs")
    (folder / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        values = Config.load(path).to_dict()
        quick = {"data.source": "digits", "data.image_size": 16, "data.batch_size": 128, "train.epochs": 1}
        for key, value in {**SMALL, **(quick if path.stem == "quickstart" else {"data.source": "photos"})}.items():
            section, _, field = key.partition(".")
            values[section][field] = value
        values["augment"].update(library="kcv", layers=[])
        (folder / "configs" / path.name).write_text(yaml.safe_dump(values))
    return folder


ALL_OR_FIRST = pytest.mark.parametrize(
    "pages", [pytest.param([README], id="README"), pytest.param(PAGES, id="all pages", marks=pytest.mark.long)]
)


@pytest.mark.full
@ALL_OR_FIRST
def test_the_commands_of_the_pages_do_what_they_say(pages: list[Path], folder: Path, warm: WarmPython) -> None:
    """In one folder, as a reader would who goes through them all; what stands on several pages runs once."""
    ran: set[tuple[str, ...]] = set()
    for page in pages:
        for command in commands(page):
            words = words_of(command)
            if words is None or tuple(words) in ran:
                continue
            if words[0] == "compare":  # of two runs that the reader has trained before
                for name in (word for word in words[1:] if word.startswith("runs/")):
                    shutil.copytree(folder / "runs" / "photos", folder / name, dirs_exist_ok=True)
            done = warm.start("kcv", words, folder=folder).finished()
            assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr
            ran.add(tuple(words))


@pytest.mark.full
@pytest.mark.parametrize(
    "pages", [pytest.param([PYTHON], id="python"), pytest.param(PAGES, id="all pages", marks=pytest.mark.long)]
)
def test_the_lines_of_python_of_the_pages_run(pages: list[Path], folder: Path, warm: WarmPython) -> None:
    if not (folder / "runs" / "photos").exists():
        words = ["train", "configs/photos.yaml", "--data=photos", "--output_dir=runs/photos"]
        assert warm.start("kcv", words, folder=folder).finished().returncode == 0
    for page in pages:
        (folder / "lines.py").write_text(code(page))
        done = warm.start(str(folder / "lines.py"), [], folder=folder).finished()
        assert done.returncode == 0, f"{page.name}: {done.stderr}"


def test_every_verb_is_run_by_some_page() -> None:
    words = [words_of(command) for page in PAGES for command in commands(page)]
    ran = {found[0] for found in words if found}
    assert {"train", "evaluate", "predict", "explain", "check", "compare", "report", "export", "info", "models"} <= ran
    assert {page.stem for page in PAGES if code(page)} >= {"explain", "python"}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= MOST_WORDS


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_document_links_to_is_there(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_and_names_of_kcv_in_a_document_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:kcv|configs|tests|docs|\.ci)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"(?:`|::: |\]\[)(kcv(?:\.\w+)+)(?=[`(\]\s])", text):
        assert name in NOT_NAMES or is_name(name), name


def test_the_names_of_kcv_in_its_docstrings_exist() -> None:
    lost = []
    for path in sorted((ROOT / "kcv").rglob("*.py")):
        for name in re.findall(r"`(kcv(?:\.\w+)+)`", path.read_text(encoding="utf-8")):
            if name not in NOT_NAMES and not is_name(name):
                lost.append(f"{path.relative_to(ROOT)}: {name}")
    assert lost == []


NOT_NAMES = {"kcv.json"}


def is_name(dotted: str) -> bool:
    """Whether `kcv.a.b` is a module, or a name that a module binds; read from the source, not imported."""
    parts, path = dotted.split(".")[1:], ROOT / "kcv"
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    named = bool(parts) and (path / f"{parts[0]}.py").is_file()
    module = path / f"{parts.pop(0) if named else '__init__'}.py"
    return not parts or parts[0] in set(bound(ast.parse(module.read_text(encoding="utf-8"))))


def bound(tree: ast.Module) -> Iterator[str]:
    """Yields the names that a module binds: imports, classes, functions and constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_the_architecture_page_has_each_room_on_its_floor() -> None:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "tests" / "test_architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = ROOT / "docs" / "architecture.md"
    drawn = next(block for block in blocks(page, "text") if block.startswith("cli"))
    floors = [set(line.strip(" └─").split(", ")) for line in drawn.splitlines()]
    assert floors[::-1] == list(module.FLOORS)
    described = set(re.findall(r"^\| `kcv/(\w+)(?:/|\.py)` \|", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert described == {room.partition(".")[0] for room in set().union(*module.FLOORS)}


@pytest.mark.long
def test_the_quick_start_prints_what_the_guide_shows(kcv: Callable[..., Finished], tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "training.md"
    shown = next(block for block in blocks(guide, "text") if block.startswith("data "))
    under_uv = {"UV_RUN_RECURSION_DEPTH": "1"}  # what it prints names the commands as they were typed
    config = str(ROOT / "configs" / "quickstart.yaml")
    done: Any = kcv("train", config, "--output_dir=runs/quickstart", env=under_uv)
    assert done.returncode == 0, done.stderr
    printed = done.stderr + done.stdout

    def outline(text: str) -> list[str]:
        """The first word of each line, where figures, paths and the machine's own lines are left out."""
        return [line.split()[0] for line in text.splitlines() if line.strip()]

    assert outline(printed) == outline(shown)
    accuracy = float(re.search(r"test accuracy +([\d.]+)%", printed)[1])  # type: ignore[index]
    assert accuracy > 95
