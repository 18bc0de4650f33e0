"""Files and folders that the system itself refuses: each verb says so in one line and ends with exit code 2."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gives up root's rights as Linux has them")

Close = Callable[[Path, int], Path]


@pytest.fixture
def close() -> Iterator[Close]:
    """Returns a function that sets the permissions of something, which are given back in the end."""
    closed: list[tuple[Path, int]] = []

    def close(path: Path, mode: int) -> Path:
        closed.append((path, path.stat().st_mode))
        path.chmod(mode)
        return path

    yield close
    for path, mode in reversed(closed):
        path.chmod(mode)


@pytest.fixture
def refused(kcv) -> Callable[..., str]:
    """Returns a function that runs a command without root's rights, which is to be refused, and returns the line."""

    def refused(*words: object) -> str:
        done = kcv(*words, plain_rights=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith("kcv: error: ")]
        assert (done.returncode, len(lines)) == (2, 1), done.stderr
        assert "Traceback" not in done.stderr and done.stderr.endswith(f"{lines[0]}\n")
        return lines[0]

    return refused


@pytest.fixture
def run(trained_run, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained_run.directory, tmp_path / "run"))


def _quick(data: Path, output: Path) -> list[str]:
    return [
        f"--data={data}", f"--output_dir={output}", "--epochs=1", "--tracking=none", "--model.width=0.25",
        "--device=cpu", "--train.plots=false",
    ]  # fmt: skip


def test_the_child_has_no_rights_of_root(start, tmp_path: Path, close: Close) -> None:
    (tmp_path / "try.py").write_text("open('secret')")
    (tmp_path / "secret").touch()
    close(tmp_path / "secret", 0)
    done = start(program=str(tmp_path / "try.py"), plain_rights=True).finished()
    assert done.returncode == 1 and "PermissionError" in done.stderr


def test_data_that_are_closed(images: Path, tmp_path: Path, close: Close, refused) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    close(data / "train" / "left", 0)
    line = refused("train", *_quick(data, tmp_path / "out"))
    assert "left" in line and "Permission denied" in line
    close(data, 0)
    assert "Permission denied" in refused("train", *_quick(data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_image_of_the_data_that_is_closed(images: Path, tmp_path: Path, close: Close, refused) -> None:
    shutil.copytree(images, tmp_path / "data")
    image = close(tmp_path / "data" / "train" / "left" / "003.png", 0)
    assert str(image.relative_to(tmp_path / "data")) in refused("train", *_quick(tmp_path / "data", tmp_path / "out"))


def test_a_folder_that_a_run_cannot_be_written_to(images: Path, tmp_path: Path, close: Close, refused) -> None:
    (tmp_path / "shut").mkdir()
    shut = close(tmp_path / "shut", 0o555)
    for output in (shut, shut / "run"):
        line = refused("train", *_quick(images, output))
        assert str(shut) in line and "Permission denied" in line
    assert list(shut.iterdir()) == []


def test_a_closed_image_and_a_closed_model(run: Path, images: Path, tmp_path: Path, close: Close, kcv, refused) -> None:
    image = tmp_path / "a.png"
    shutil.copy(images / "test" / "left" / "000.png", image)
    close(image, 0)
    # A row of its own says it, as the other images have theirs.
    done = kcv("predict", image, f"--model={run}", "--format=json", plain_rights=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "could not be read" in done.stderr
    assert str(image) in done.stdout and "Permission denied" in done.stdout
    close(run / "model.keras", 0)
    line = refused("predict", images / "test" / "left" / "000.png", f"--model={run}")
    assert "model.keras" in line and "Permission denied" in line


def test_a_run_folder_that_an_evaluation_cannot_be_written_to(run: Path, close: Close, refused) -> None:
    close(run / "evaluation", 0o555)
    before = (run / "evaluation" / "metrics.json").read_bytes()
    line = refused("evaluate", run, "--plots=false")
    assert line.startswith(f"kcv: error: cannot write {run / 'evaluation' / 'metrics.json'}: Permission denied")
    assert (run / "evaluation" / "metrics.json").read_bytes() == before


def test_a_run_folder_that_takes_no_folder_for_an_evaluation(run: Path, close: Close, refused) -> None:
    shutil.rmtree(run / "evaluation")
    close(run, 0o555)
    line = refused("evaluate", run, "--plots=false")
    assert str(run / "evaluation") in line and "Permission denied" in line


def test_a_run_that_cannot_be_read_is_not_continued(run: Path, close: Close, refused) -> None:
    (run / "metrics.json").unlink()
    (run / "resume").mkdir()
    (run / "resume" / "run.json").write_text("{}")
    close(run / "resume" / "run.json", 0)
    assert "run.json" in (line := refused("train", f"--resume={run}")) and "Permission denied" in line
    close(run / "resume", 0)
    assert "resume" in refused("train", f"--resume={run}")


def test_checkpoints_that_are_closed_are_not_told_as_damaged(
    configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close: Close, refused
) -> None:
    from kcv.tasks.train import train
    from kcv.training.callbacks.checkpoint import Checkpoint

    consider = Checkpoint._consider

    def stop(self: Checkpoint, at: int) -> None:
        consider(self, at)
        assert self._writer is not None
        self._writer.wait()
        if at == 2:
            raise SystemExit("killed")

    monkeypatch.setattr(Checkpoint, "_consider", stop)
    with pytest.raises(SystemExit):
        train(configure(**{"train.checkpoint_seconds": 0}))
    found = sorted((tmp_path / "run" / "resume").glob("checkpoint-*"))
    assert found
    for path in found:
        close(path, 0)
    line = refused("train", f"--resume={tmp_path / 'run'}")
    assert line == f"kcv: error: {found[0]}: cannot be read: Permission denied; there is no other whole checkpoint."


def test_a_folder_that_an_export_cannot_be_written_to(run: Path, tmp_path: Path, close: Close, refused) -> None:
    (tmp_path / "shut").mkdir()
    shut = close(tmp_path / "shut", 0o555)
    line = refused("export", run, f"--output={shut / 'model.onnx'}")
    assert str(shut) in line and "Permission denied" in line
    assert list(shut.iterdir()) == []
