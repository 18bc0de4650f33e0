"""Training with a backbone: frozen to the bit, fine-tuned, or first one and then the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from small_networks import FEATURES, small_networks
from variants import variants

from kcv import artifact, evaluate
from kcv.config import Config
from kcv.inference import opening
from kcv.models import registry
from kcv.tasks.train import train
from kcv.training.callbacks.control import BestModel
from kcv.training.run_folder import Run

Configure = Callable[..., Config]
SMALL = {"data.image_size": 32, "model.weights": "none"}
FROZEN = {"model.mode": "feature_extraction", "model.weights": "none"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """Collects the weights that models are built with."""
    seen: list[dict[str, np.ndarray]] = []
    build = registry.build

    def watched(*args: Any, **kwargs: Any) -> keras.Model:
        model = build(*args, **kwargs)
        seen.append(weights(model))
        return model

    monkeypatch.setattr(registry, "build", watched)
    return seen


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy().copy() for variable in model.weights}


def moved(run: Run, start: list[dict[str, np.ndarray]]) -> set[str]:
    """Returns the layers whose weights or statistics differ from how they began, by one bit or more."""
    after = weights(opening.load(run.model_path).keras_model)
    return {path.split("/")[0] for path, before in start[-1].items() if not np.array_equal(before, after[path])}


def norms(path: Path) -> set[str]:
    model = opening.load(path).keras_model
    return {layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [
        pytest.param("resnet50", "feature_extraction", "small", marks=pytest.mark.full),
        pytest.param("efficientnet_b0", "fine_tuning", "small", marks=pytest.mark.full),
        pytest.param("resnet50", "fine_tuning", "true", marks=pytest.mark.long),
        pytest.param("efficientnet_b0", "feature_extraction", "true", marks=pytest.mark.long),
    ],
)
def test_both_networks_train_in_both_modes(
    name: str, mode: str, size: str, configure: Configure, start: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    with small_networks() if size == "small" else nullcontext():
        run = train(configure(model=name, lr=1e-3, **SMALL, **{"model.mode": mode}))
    assert len(run.history) == 2 and np.isfinite([row["loss"] for row in run.history]).all()
    changed = moved(run, start)
    info = artifact.read_info(run.model_path)
    features = FEATURES[name] if size == "small" else {"resnet50": 2048, "efficientnet_b0": 1280}[name]
    assert info.variant == "torchvision"
    if mode == "feature_extraction":
        assert changed == {"logits"}
        assert info.parameters["trainable"] == (features + 1) * 3
    else:
        assert len(changed) > (40 if size == "small" else 100) and norms(run.model_path) <= changed
        assert info.parameters["trainable"] > 0.95 * info.parameters["total"]
    result = evaluate(run.model_path, plots=False, output_dir=tmp_path / "evaluation")
    assert {key: result.metrics[key] for key in run.metrics} == run.metrics
    assert keras.saving.load_model(run.model_path).count_params() == info.parameters["total"]


@pytest.mark.full
def test_the_head_learns_from_frozen_features(configure: Configure) -> None:
    run = train(configure(epochs=24, lr=2e-2, **FROZEN))
    assert run.metrics["accuracy"] > 0.9


@pytest.mark.parametrize("options", [{}, {"augment.flip": "random"}], ids=["kept", "computed in each epoch"])
def test_frozen_nothing_of_the_backbone_changes_by_a_bit(
    options: dict[str, object], configure: Configure, start: list[dict[str, np.ndarray]]
) -> None:
    """Neither a parameter nor a moving statistic, and neither with nor without kept features, decay or averages."""
    frozen = {**FROZEN, "train.ema": 0.9, "optim.weight_decay": 1.0}
    assert moved(train(configure(**frozen, **options)), start) == {"logits"}


@pytest.mark.full
def test_kept_and_fresh_features_train_the_same_head(configure: Configure, tmp_path: Path) -> None:
    options = {**FROZEN, "augment.flip": "random", "model.dropout": 0.2, "epochs": 3}
    kept = train(configure(**options, **{"model.feature_views": 3, "output_dir": str(tmp_path / "kept")}))
    fresh = train(configure(**options, **{"output_dir": str(tmp_path / "fresh")}))
    for a, b in zip(kept.history, fresh.history, strict=True):
        assert [a[key] for key in ("loss", "val_loss")] == pytest.approx([b[key] for key in ("loss", "val_loss")])
    for a, b in zip(*(opening.load(run.model_path).keras_model.get_weights() for run in (kept, fresh)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("after", variants([1, 2], fast=1))
def test_in_two_stages_the_backbone_changes_only_after_the_first(
    after: int, configure: Configure, start: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[tuple[set[str], int]] = []
    on_epoch_end = BestModel.on_epoch_end

    def watched(self: BestModel, epoch: int, logs: Any = None) -> None:
        now = weights(self._kept_model)
        changed = {path.split("/")[0] for path, before in start[-1].items() if not np.array_equal(before, now[path])}
        changes.append((changed, epoch + 1))
        on_epoch_end(self, epoch, logs)

    monkeypatch.setattr(BestModel, "on_epoch_end", watched)
    run = train(configure(epochs=4, lr=5e-3, **{"model.unfreeze_after": after, "model.weights": "none"}))
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4]
    assert [epoch for _, epoch in changes] == [1, 2, 3, 4]
    for changed, epoch in changes:
        if epoch <= after:
            assert changed == {"logits"}
        else:
            assert {"block2_conv1", "block5_conv2", "logits"} <= changed
            assert not changed & norms(run.model_path)
            assert "block1_whiten" not in changed
    rates = [row["learning_rate"] for row in run.history]
    assert rates[after] > rates[after - 1]  # the second stage begins again


@pytest.mark.full
def test_a_model_file_starts_the_next_run_with_its_head(configure: Configure, tmp_path: Path) -> None:
    first = train(configure(epochs=6))
    again = train(
        configure(
            **{"epochs": 1, "lr": 1e-6, "model.weights": str(first.model_path), "output_dir": str(tmp_path / "again")}
        )
    )
    assert again.metrics["accuracy"] == pytest.approx(first.metrics["accuracy"], abs=0.05)
    assert again.history[0]["val_loss"] == pytest.approx(min(row["val_loss"] for row in first.history), abs=0.1)


def test_wrong_weights_stop_a_run_before_there_is_one(configure: Configure, tmp_path: Path) -> None:
    from kcv.errors import KcvError

    path = tmp_path / "weights.pth"
    path.write_text("hello")
    config = configure(model="resnet50", **{"model.weights": str(path), "data.image_size": 32})
    with pytest.raises(KcvError, match="is not a file of PyTorch weights"):
        train(config)
    assert config.output_dir is not None and not config.output_dir.exists()


@pytest.mark.full
def test_a_best_epoch_of_the_first_stage_is_told_as_what_it_was(
    configure: Configure, start: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_epoch_end = BestModel.on_epoch_end

    def watched(self: BestModel, epoch: int, logs: Any = None) -> None:
        if epoch == 0:  # as if the second was worse
            on_epoch_end(self, epoch, logs)

    monkeypatch.setattr(BestModel, "on_epoch_end", watched)
    run = train(configure(epochs=2, lr=5e-3, **{"model.unfreeze_after": 1, "model.weights": "none"}))
    assert run.best_epoch == 1
    assert moved(run, start) == {"logits"}
    model = opening.load(run.model_path).keras_model
    assert artifact.read_info(run.model_path).parameters["trainable"] == model.get_layer("logits").count_params()
