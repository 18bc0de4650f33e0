"""The README's commands and lines of Python, run as they stand there: it cannot say what does not work.

They run in a folder with toys of the names that the README uses: small images in `photos` and `new_photos`, and in
`configs` the shipped files with less to do. What needs a network, a server or several processes is left out, see
`LEFT_OUT`; the complete set runs the quick start on its real configuration as well.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm import Finished, WarmPython

from kcv.config import Config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LEFT_OUT = {
    r"^git clone|^cd ": "needs a network",
    r"^python -m venv|^pip install (?!uv && uv run python)|^npm ": "needs a package registry",
    r"mlflow ui": "is a server",
    r"s3://|hf://": "needs a network",
    r"^torchrun|^uv run torchrun": "several processes: tests/distributed",
    r"^uv run (pytest|nox)": "the tests themselves",
    r"--augment\.library=keras_cv": "needs the extra kcv[kerascv]",
}
SMALL = {"data.image_size": 16, "model.name": "custom_cnn", "model.width": 0.125, "model.unfreeze_after": 0,
         "model.mode": "fine_tuning", "model.feature_views": None, "augment.crop_padding": 1,
         "train.epochs": 6, "train.plots": False, "tracking.uri": "none",
         "optim.warmup_epochs": 0.5, "optim.lr": 5e-3, "data.batch_size": 16}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Returns the command lines of the README's shell blocks, each as typed."""
    lines = [line.partition("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def left_out(command: str) -> bool:
    return any(re.search(pattern, command) for pattern in LEFT_OUT)


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it, but of toys."""
    folder = tmp_path_factory.mktemp("readme")
    for split in ("train", "val", "test"):
        for name, given in (("cat", "centre"), ("dog", "left"), ("ship", "top")):
            shutil.copytree(images / split / given, folder / "photos" / split / name)
    (folder / "new_photos").mkdir()
    for path in sorted((images / "test" / "left").iterdir())[:3]:
        shutil.copy(path, folder / "new_photos")
    for name in ("a.jpg", "b.jpg", "one.png", "two.png"):
        shutil.copy(images / "test" / "top" / "000.png", folder / name)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "digit.png", folder / "docs")
    for path in (ROOT / "configs").glob("*.yaml"):
        values = Config.load(path).to_dict()
        quick = {"data.source": "digits", "data.image_size": 16, "data.batch_size": 128, "train.epochs": 1}
        for key, value in {**SMALL, **(quick if path.stem == "quickstart" else {"data.source": "photos"})}.items():
            section, _, field = key.partition(".")
            values[section][field] = value
        values["augment"].update(library="kcv", layers=[])
        (folder / "configs").mkdir(exist_ok=True)
        (folder / "configs" / path.name).write_text(yaml.safe_dump(values))
    return folder


def test_its_commands_do_what_it_says(folder: Path, warm: WarmPython) -> None:
    ran = []
    for command in commands():
        if left_out(command):
            continue
        found = re.fullmatch(r"(?:pip install uv && )?(?:uv run )?(?:python -m )?kcv (.*)", command)
        assert found, f"is no command of kcv, nor left out: {command}"
        words = shlex.split(found[1])
        if words[0] == "compare":  # of two runs that the reader has trained, as it says above
            for name in (word for word in words[1:] if word.startswith("runs/")):
                shutil.copytree(folder / "runs" / "photos", folder / name)
        done = warm.start("kcv", words, folder=folder).finished()
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        ran.append(words[0])
    assert {"train", "evaluate", "predict", "explain", "check", "compare", "export", "info"} <= set(ran)


def test_its_lines_of_python_run(folder: Path, warm: WarmPython) -> None:
    pieces = [block for block in blocks("python") if "from kcv import" in block or "kcv." in block]
    assert len(pieces) >= 2
    script = folder / "lines.py"
    script.write_text("import kcv\n" + "\n".join(sorted(pieces, key=lambda piece: "heatmaps" in piece)))
    if not (folder / "runs" / "photos").exists():
        words = ["train", "configs/photos.yaml", "--data=photos", "--output_dir=runs/photos"]
        assert warm.start("kcv", words, folder=folder).finished().returncode == 0
    done = warm.start(str(script), [], folder=folder).finished()
    assert done.returncode == 0, done.stderr


def test_each_file_that_it_links_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert targets
    for target in targets:
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.long
def test_the_quick_start_prints_what_it_shows(kcv: Callable[..., Finished], tmp_path: Path) -> None:
    shown = next(block for block in blocks("text") if block.startswith("data "))
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
