"""What `kcv models` says is what is built."""

import numpy as np
import pytest

from kcv.config import MODEL_NAMES, ModelConfig
from kcv.models import registry
from kcv.models.catalog import ENTRIES, Entry, rows


def test_every_model_that_can_be_configured_is_listed():
    assert tuple(entry.name for entry in ENTRIES) == MODEL_NAMES


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_figures_are_those_of_the_model(entry: Entry):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    model = registry.build(ModelConfig(name=entry.name, weights="none"), 32, 10, pixels)
    assert model.get_layer("logits").input.shape[-1] == entry.features
    assert model.count_params() - (entry.features + 1) * 10 == entry.parameters


def test_weights_are_here_once_their_file_is(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KCV_WEIGHTS_DIR", str(tmp_path / "mine"))
    entry = next(entry for entry in ENTRIES if entry.name == "resnet50")
    assert (entry.weights, entry.weights_here) == (None, "with a download")
    path = tmp_path / "models" / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    path.parent.mkdir()
    path.touch()
    assert (entry.weights, entry.weights_here) == (path, "here")
    assert {row["name"]: row["imagenet_weights"] for row in rows()}["resnet50"] == str(path)
