"""What the tests of hostile files share: a canary that nothing may wake, and a model to spoil."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from spoiling import Members

from kcv import artifact, metrics
from kcv.config import Config
from kcv.metrics.conformal import PredictionSets
from kcv.metrics.temperature import Calibration

if TYPE_CHECKING:
    from kcv.training.run_folder import Run


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that code in a hostile file would make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code in a file was run"


@pytest.fixture(scope="session")
def members(trained_run: Run) -> dict[str, bytes]:
    """The members of a sound model file."""
    with zipfile.ZipFile(trained_run.model_path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


Pack = Callable[..., Path]


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Returns a function that writes members as a model file."""

    def write(members: Members, compression: int = zipfile.ZIP_STORED, name: str = "m.keras") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members of a sound model file of 16 px and three classes that opens in a twinkling."""
    import keras

    layers = keras.layers
    inputs = keras.Input((16, 16, 3), name="image")
    values = layers.Conv2D(4, 3, padding="same", name="conv")(layers.Rescaling(1 / 255, name="scale")(inputs))
    values = layers.MaxPooling2D(2, name="pool")(
        layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(values))
    )
    model = keras.Model(inputs, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="mean")(values)))
    names = ("a", "b", "c")
    labels = np.array([0, 1, 2, 2])
    sets = PredictionSets(wanted_coverage=0.9, least=0.05, images=10)
    figures = metrics.summarize(labels, np.eye(3)[[0, 1, 1, 2]] * 0.7 + 0.1, names, "test", threshold=0.5, sets=sets)
    info = artifact.ArtifactInfo(
        model_name="custom_cnn",
        class_names=names,
        image_size=16,
        resize="squash",
        precision="float32",
        parameters={"total": model.count_params(), "trainable": 10},
        data_name="digits",
        data_fingerprint="ab" * 32,
        config=Config().to_dict(),
        metrics=figures,
        calibration=Calibration(
            temperature=1.5, threshold=0.5, wanted_precision=0.9, precision=0.9, coverage=0.5, pictures=10, sets=sets
        ),
        best_epoch=3,
        versions={"kcv": "0.1.0", "keras": "3.15.0"},
    )
    path = artifact.save(tmp_path_factory.mktemp("tiny") / "model.keras", model, info)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
