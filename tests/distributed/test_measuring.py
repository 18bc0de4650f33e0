"""`evaluate` and `predict` by two processes under torchrun, against one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import Brightness
from PIL import Image
from torchrun import torchrun
from warm import Finished, WarmPython

from kcv import Config, errors, predict, train
from kcv.common.launch import Launch
from kcv.inference.prediction import Job
from kcv.inference.shards import PredictionShards

Together = Callable[..., list[Finished]]


@pytest.fixture
def together(warm: WarmPython, tmp_path: Path) -> Together:
    """Runs `kcv WORD...` by two processes that share its work."""
    return lambda *words: warm.together("kcv", words, folder=tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    settings = {"data.source": "digits", "model.width": 0.25, "train.epochs": 1, "tracking.uri": "none",
                "train.plots": False, "output_dir": str(folder)}  # fmt: skip
    return train(Config.load(None, **settings)).model_path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More images than go into one part, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(2300):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number:05d}.png")
    (folder / "02250.png").write_bytes(b"no image")
    return folder


@pytest.mark.full
def test_evaluate_gives_the_same_to_the_last_digit(model: Path, kcv: Any, together: Together, tmp_path: Path) -> None:
    one = kcv("evaluate", model, "--plots=false", "--format=json", f"--output_dir={tmp_path / 'alone'}")
    first, second = together("evaluate", model, "--plots=false", "--format=json", f"--output_dir={tmp_path / 'two'}")
    assert [done.returncode for done in (one, first, second)] == [0, 0, 0], first.stderr + second.stderr
    assert second.stdout == ""
    answers = [json.loads(done.stdout) for done in (one, first)]
    for answer in answers:
        answer.pop("directory")
    assert answers[0] == answers[1]
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("alone", "two")]
    assert files[0] == files[1]


@pytest.mark.full
def test_predict_writes_the_same_file(model: Path, images: Path, kcv: Any, together: Together, tmp_path: Path) -> None:
    one = kcv("predict", images, f"--model={model}", f"--output={tmp_path / 'alone'}.csv")
    two = together("predict", images, f"--model={model}", f"--output={tmp_path / 'two'}.csv")
    assert "1 image could not be read" in one.stderr
    assert "1 image could not be read" in two[0].stderr
    assert (tmp_path / "alone.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert len((tmp_path / "two.csv").read_text().splitlines()) == 2301
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.csv", "two.csv"]


@pytest.mark.full
def test_a_process_without_work_ends_too(model: Path, together: Together, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "two.png")
    finished = together("predict", tmp_path, f"--model={model}", f"--output={tmp_path / 'rows.csv'}")
    assert [done.returncode for done in finished] == [0, 0], finished
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 3


def complaints(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("kcv: error:")]


def test_a_wrong_word_is_one_line_of_one_process(together: Together) -> None:
    missing = together("evaluate", "no/such/model.keras")
    (line,) = complaints("".join(done.stderr for done in missing))
    assert "no/such/model.keras" in line
    assert any(done.returncode for done in missing)
    unknown = together("train", "--data.sorce=digits")
    assert len(complaints("".join(done.stderr for done in unknown))) == 1


@pytest.mark.long
def test_torchrun_itself_starts_a_prediction_and_says_an_error_once(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    rows = tmp_path / "rows.csv"
    done = torchrun("-m", "kcv", "predict", tmp_path, f"--model={model}", f"--output={rows}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(rows.read_text().splitlines()) == 2
    wrong = torchrun("-m", "kcv", "evaluate", "no/such/model.keras", folder=tmp_path)
    assert wrong.returncode != 0
    assert len(complaints(wrong.stderr)) == 1


def test_predict_needs_a_file_and_names(model: Path, together: Together, tmp_path: Path) -> None:
    first, second = together("predict", tmp_path, f"--model={model}")
    assert "predict: several processes need --output=FILE" in first.stderr + second.stderr
    with pytest.raises(errors.UsageError, match="--resume needs --output=FILE"):
        predict(tmp_path, model, resume=True)
    with pytest.raises(errors.UsageError, match="--resume needs names of files or folders"):
        predict(iter([tmp_path]), model, resume=True, output=tmp_path / "rows.csv")


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr("kcv.inference.shards.ROWS", 4)
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(11):
        Image.new("RGB", (8, 8), (number * 20,) * 3).save(folder / f"{number:02d}.png")
    return sorted(folder.iterdir())


def test_finished_parts_are_kept_and_the_rest_is_done(few: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with pytest.raises(MemoryError):
        list(predict(few, Brightness(last=7), output=output, resume=True))
    assert not output.exists()
    assert [path.name for path in sorted((tmp_path / "rows.csv.parts").iterdir())] == [
        "part-00000000.jsonl", "prediction.json",
    ]  # fmt: skip
    again = Brightness()
    rows = list(predict(few, again, output=output, resume=True))
    assert again.seen == 7  # of eleven images, four were finished
    assert rows == list(predict(few, Brightness(), output=tmp_path / "uncut.csv"))
    assert output.read_bytes() == (tmp_path / "uncut.csv").read_bytes()
    assert not (tmp_path / "rows.csv.parts").exists()


def test_parts_of_another_prediction_are_not_mixed_in(few: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with pytest.raises(MemoryError):
        list(predict(few, Brightness(last=7), output=output, resume=True))
    with pytest.raises(errors.OutputError, match=r"is of another prediction \(its images, names differ\)"):
        predict(few[:9], Brightness(), output=output, resume=True)
    job = Job(Brightness(), 1, 2, None)
    with pytest.raises(errors.OutputError, match="go on with --resume, or remove it"):
        PredictionShards(job, output, lambda: iter(few), Launch(0, 2, 0, 2), "Counting").rows(resume=False)


def test_each_process_does_its_own_parts(few: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    models = [Brightness(), Brightness()]
    first, second = (
        PredictionShards(Job(model, 2, 2, None), output, lambda: iter(few), Launch(rank, 2, rank, 2), "Counting")
        for rank, model in enumerate(models)
    )
    rows = first.rows(resume=False)
    came: list[dict[str, object]] = []
    late = threading.Thread(target=lambda: came.extend(second.rows(resume=False)))
    threading.Timer(0.5, late.start).start()  # the first one is done with its own parts long before
    rows = list(rows)
    late.join(20)
    assert not late.is_alive()
    assert came == []
    assert not output.with_name("rows.jsonl.parts").exists()
    assert [row["path"] for row in rows] == [str(path) for path in few]
    assert [model.seen for model in models] == [7, 4]
