"""Two processes under torchrun against one, on real digits."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchrun import torchrun
from warm import WarmPython

import kcv

WORKER = Path(__file__).with_name("worker.py")
SETTINGS: dict[str, Any] = {
    "data.source": "digits", "data.image_size": 16, "data.batch_size": 128, "model.width": 0.125,
    "augment.crop_padding": 2,
    "augment.flip": "random", "train.epochs": 2, "tracking.uri": "none", "train.calibrate": False, "train.plots": False,
}  # fmt: skip


def words_for(folder: Path, kill: str, settings: dict[str, Any]) -> list[str]:
    """What `worker.py` is called with."""
    folder.mkdir(parents=True, exist_ok=True)
    return [str(folder), kill, json.dumps({**SETTINGS, "output_dir": str(folder / "run"), **settings})]


def launch(
    warm: WarmPython, folder: Path, processes: int, *, env: dict[str, str] | None = None, **settings: Any
) -> None:
    """Trains by so many processes, connected as torchrun would."""
    words = words_for(folder, "none", settings)
    if processes > 1:
        finished = warm.together(str(WORKER), words, folder=folder, processes=processes, env=env)
    else:
        finished = [warm.start(str(WORKER), words, folder=folder, env=env).finished()]
    for done in finished:
        assert done.returncode == 0, done.stderr[-4000:]


def weights(folder: Path) -> list[np.ndarray]:
    return list(kcv.load_model(folder / "run" / "model.keras").keras_model.get_weights())


def digests(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("rank*.txt"))]


@pytest.fixture(scope="module")
def two(warm: WarmPython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("two")
    launch(warm, folder, 2)
    return folder


@pytest.mark.parametrize(
    "size",
    [{}, pytest.param({"data.image_size": None, "model.width": 0.25, "train.epochs": 2}, marks=pytest.mark.long)],
    ids=["16", "32"],
)
def test_two_processes_train_what_one_trains(size: dict[str, Any], warm: WarmPython, tmp_path: Path) -> None:
    for processes in (1, 2):
        launch(
            warm,
            tmp_path / str(processes),
            processes,
            double=True,
            **{"train.sync_batchnorm": True, "train.epochs": 1, **size},
        )
    alone, together = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert max(float(np.abs(a - b).max()) for a, b in zip(alone, together, strict=True)) < 1e-5
    assert len(set(digests(tmp_path / "2"))) == 1
    rows = [json.loads((tmp_path / name / "run" / "metrics.json").read_text()) for name in ("1", "2")]
    assert rows[0]["log_loss"] == pytest.approx(rows[1]["log_loss"], rel=1e-5)
    histories = [(tmp_path / name / "run" / "history.csv").read_text().splitlines() for name in ("1", "2")]
    assert len(histories[0]) == len(histories[1]) == size.get("train.epochs", 1) + 1
    for one, other in zip(histories[0][1:], histories[1][1:], strict=True):
        assert [float(x) for x in one.split(",")[:6]] == pytest.approx([float(x) for x in other.split(",")[:6]], 1e-5)


@pytest.mark.long
def test_two_processes_weigh_and_draw_classes_as_one_does(warm: WarmPython, tmp_path: Path) -> None:
    uneven = {"data.sampling": "sqrt", "data.class_weights": "{0: 4, 1: 0.5}", "optim.loss": "focal"}
    for processes in (1, 2):
        options = {"train.sync_batchnorm": True, "train.epochs": 1, **uneven}
        launch(warm, tmp_path / str(processes), processes, double=True, **options)
    alone, together = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert max(float(np.abs(a - b).max()) for a, b in zip(alone, together, strict=True)) < 1e-5


@pytest.mark.long
def test_processes_train_a_model_that_a_function_builds(warm: WarmPython, tmp_path: Path) -> None:
    """Its weights are drawn without the run's seed: those of the first process are all processes'."""
    (tmp_path / "net.py").write_text(
        "import secrets, keras\nfrom keras import layers\n\ndef build(image_size, num_classes):\n"
        "    keras.utils.set_random_seed(secrets.randbelow(2**31))\n"
        "    inputs = keras.Input((image_size, image_size, 3))\n"
        "    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(layers.Rescaling(1 / 255)(inputs)))\n"
        "    return keras.Model(inputs, layers.Dense(num_classes)(x))\n"
    )
    launch(warm, tmp_path, 2, **{"model.name": "net.py:build", "model.width": 1.0, "precision": "float32"})
    assert len(digests(tmp_path)) == 2 and len(set(digests(tmp_path))) == 1


def test_processes_agree_to_the_bit_with_statistics_of_their_own(two: Path) -> None:
    assert len(digests(two)) == 2
    assert len(set(digests(two))) == 1
    environment = json.loads((two / "run" / "environment.json").read_text())
    assert environment["processes"] == 2


@pytest.mark.long
def test_a_killed_process_brings_the_group_back_to_the_same_end(two: Path, tmp_path: Path) -> None:
    done = torchrun(WORKER, *words_for(tmp_path, "1:13", {"train.checkpoint_seconds": 0}), folder=tmp_path, restarts=1)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "goes on" in done.stderr or (tmp_path / "run" / "metrics.json").is_file()
    assert digests(tmp_path) == digests(two)
    undisturbed, killed = (json.loads((folder / "run" / "metrics.json").read_text()) for folder in (two, tmp_path))
    assert killed == undisturbed
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"]


@pytest.mark.full
def test_a_run_goes_on_with_another_number_of_processes_and_says_so(warm: WarmPython, kcv: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = words_for(tmp_path, "1:3", {"train.checkpoint_seconds": 0, "optim.lr": 5e-3})
    dead = warm.together(str(WORKER), words, folder=tmp_path)
    assert dead[1].returncode == -signal.SIGKILL
    assert not (folder / "metrics.json").exists()
    done = kcv("train", f"--resume={folder}")
    assert done.returncode == 0, done.stderr
    assert "not bit for bit" in done.stderr
    assert "processes 1 instead of 2" in done.stderr
    assert json.loads((folder / "metrics.json").read_text())["accuracy"] > 0.2  # chance is 0.1


@pytest.mark.full
def test_processes_train_what_is_passed_to_them_and_go_on_with_it(warm: WarmPython, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    own = {"extended": True, "model.width": 1.0, "train.checkpoint_seconds": 0, "optim.lr": 0.05}
    dead = warm.together(str(WORKER), words_for(tmp_path, "1:13", own), folder=tmp_path)
    assert dead[1].returncode == -signal.SIGKILL
    words = words_for(tmp_path, "none", {**own, "resume": str(folder)})
    for done in warm.together(str(WORKER), words, folder=tmp_path):
        assert done.returncode == 0, done.stderr[-4000:]
    assert len(set(digests(tmp_path))) == 1  # other weights at first, and the same in the end
    assert [(tmp_path / f"steps{rank}.log").read_text() for rank in (0, 1)] == ["22", "22"]
    header, *rows = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    assert header[-2:] == ["top3", "val_top3"]
    whole = [dict(zip(header, map(float, row), strict=True)) for row in rows]
    assert all(row["val_accuracy"] < row["val_top3"] <= 1 for row in whole)
    # Of all validation images, and not of one process's.
    right = whole[-1]["val_top3"] * 144
    assert right == pytest.approx(round(right), abs=1e-4)


@pytest.mark.full
def test_processes_share_the_work_of_frozen_features(warm: WarmPython, tmp_path: Path) -> None:
    frozen = {"model.mode": "feature_extraction", "model.weights": "none", "augment.crop_padding": 0,
              "augment.flip": "none", "precision": "float32"}  # fmt: skip
    told = []
    for processes in (1, 2):
        own = {"KCV_CACHE_DIR": str(tmp_path / f"cache{processes}")}
        launch(warm, tmp_path / str(processes), processes, env=own, **frozen)
        kept = sorted((tmp_path / f"cache{processes}").rglob("*.npy"))
        told.append([np.load(path) for path in kept])
    train = [max(arrays, key=len) for arrays in told]
    assert len(train[0]) == len(train[1]) == 1293
    np.testing.assert_allclose(*train, rtol=1e-4, atol=1e-4)
    assert len(set(digests(tmp_path / "2"))) == 1
    rows = [(tmp_path / name / "run" / "history.csv").read_text().splitlines()[-1].split(",") for name in ("1", "2")]
    assert [float(x) for x in rows[0][:6]] == pytest.approx([float(x) for x in rows[1][:6]], rel=1e-3)
