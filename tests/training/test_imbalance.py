"""Classes of very different sizes in a whole training: what is said, that rare classes gain, and that runs resume."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import Configure, assert_same, disturb, stopped_at

from kcv.config import Config
from kcv.data import loading
from kcv.models import registry
from kcv.models.backbone import Backbone
from kcv.tasks.train import train
from kcv.training.features import FeatureStore
from kcv.training.loop import open_batches


@pytest.fixture
def uneven(images: Path, tmp_path: Path) -> Path:
    """The drawn images with 30, 30 and 3 for training."""
    folder = Path(shutil.copytree(images, tmp_path / "uneven"))
    for path in sorted((folder / "train" / "top").iterdir())[3:]:
        path.unlink()
    return folder


VARIANTS: dict[str, dict[str, Any]] = {
    "sampled, mixed, streamed": {
        "data.sampling": "balanced", "augment.mixup": 0.4, "augment.crop_padding": 1, "data.memory_budget_mb": 0,
        "data.workers": 0, "optim.loss": "focal",
    },
    "weighted": {"data.class_weights": "{top: 8.0}", "augment.cutmix": 1.0},
    "sampled": {"data.sampling": "sqrt", "data.class_weights": "sqrt"},
    "two stages": {
        "data.sampling": "balanced", "model.unfreeze_after": 1, "model.weights": "none", "augment.crop_padding": 1,
        "model.feature_views": 1, "optim.loss": "focal",
    },
}  # fmt: skip
CASES = [pytest.param(v, id=name, marks=() if "streamed" in name else pytest.mark.full) for name, v in VARIANTS.items()]


@pytest.mark.full
@pytest.mark.parametrize("variant", CASES)
def test_a_run_goes_on_to_the_bit(
    variant: dict[str, Any], configure: Configure, uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))
    common = {"data": str(uneven), "train.checkpoint_seconds": 0, "epochs": 2, **variant}
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common))
    cut = configure(output_dir=str(tmp_path / "cut"), **common)
    for epoch, step in ((0, 3), (1, 2)):
        with stopped_at(epoch, step, "kill"), pytest.raises(SystemExit):
            train(cut) if epoch == 0 else train(resume=tmp_path / "cut")
        disturb()
    assert_same(whole, train(resume=tmp_path / "cut"))


@pytest.mark.full
def test_a_rare_class_is_named_with_what_to_set_until_something_is_set(
    configure: Configure, uneven: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="kcv"):
        plain = train(configure(data=str(uneven), epochs=1, output_dir=None))
        assert "classes    30 images of 'centre' and 3 of 'top', 10 times fewer; --data.class_weights=" in caplog.text
        caplog.clear()
        weighted = train(configure(data=str(uneven), epochs=1, output_dir=None, **{"data.class_weights": "balanced"}))
    assert "classes    weights balanced" in caplog.text and "times fewer" not in caplog.text
    # One epoch from the same weights: the loss of training is another one, and validation measures the same thing.
    assert plain.history[0]["loss"] != weighted.history[0]["loss"]
    for run in (plain, weighted):
        figures = json.loads((run.directory / "metrics.json").read_text())
        recalls = [scores["recall"] for scores in figures["per_class"].values()]
        assert figures["balanced_accuracy"] == pytest.approx(np.mean(recalls))
        assert "balanced accuracy" in (run.directory / "report.html").read_text()
        assert "balanced accuracy" in (run.directory / "MODEL_CARD.md").read_text()


@pytest.mark.full
def test_an_older_run_that_lacks_the_keys_goes_on(configure: Configure, tmp_path: Path) -> None:
    from kcv.common import seal
    from kcv.common.files import write_json
    from kcv.training.resume.record import Record

    with stopped_at(0, 2), pytest.raises(KeyboardInterrupt):
        train(configure(**{"train.checkpoint_seconds": 0}))
    path = tmp_path / "run" / "resume" / "run.json"
    values = json.loads(path.read_text())
    for key in ("data.sampling", "data.class_weights", "optim.loss", "optim.focal_gamma"):
        del values["config"][key]
    kept = {key: value for key, value in values.items() if key not in ("sha256", "signature")}
    content = Record(**kept)._content()
    write_json(path, {**content, "sha256": seal.checksum(content), "signature": seal.signature(content)})
    assert len(train(resume=tmp_path / "run").history) == 2


def test_kept_features_are_of_each_image_and_drawn_by_class(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    backbone = Backbone.of(
        registry.build(Config.load(model="custom_cnn", **{"model.width": 0.125}).model, 16, 3, pixels)
    )
    for more in ({}, {"augment.crop_padding": 1, "model.feature_views": 2}):
        config = Config.load(model="custom_cnn", data=str(uneven), batch_size=16, **{
            "data.sampling": "balanced", "model.mode": "feature_extraction", "model.weights": "none", **more
        })  # fmt: skip
        dataset = loading.load(config.data)
        with open_batches(config, dataset, "cpu") as batches:
            fed = FeatureStore(backbone.features(), config, ("one",), "cpu", 4).training(batches.train)
            fed.set_epoch(1)
            found = list(fed)
            assert torch.cat([targets.argmax(1) for _, targets in found]).bincount().tolist() == [21, 21, 21]
            features = torch.cat([features for features, _ in found])
            places = np.concatenate([part.indices for part in batches.train.order(1)])
            for place in np.unique(places):  # the same image has the same features each time
                rows = features[torch.from_numpy(places == place)]
                assert torch.equal(rows, rows[:1].expand_as(rows)) and rows.isfinite().all()
