"""`check --augment`: what is drawn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcv.config import Config
from kcv.data import loading
from kcv.errors import ConfigError, UsageError
from kcv.quality.augmented import augmented_views, describe
from kcv.tasks.check import check


def test_views_are_what_the_first_epochs_would_see_and_repeat() -> None:
    source = loading.open_source("digits")
    config = Config.load(**{"augment.policy": "light"})
    found, again = augmented_views(config, source), augmented_views(config, source)
    assert found.images.shape == (6, 8, 32, 32, 3)
    np.testing.assert_array_equal(found.images, again.images)
    assert set(found.titles) <= set(source.class_names)
    kinds = {image.tobytes() for image in found.images[0]}
    assert len(kinds) == 8  # the image and seven views of it, all different
    plain = augmented_views(Config.load(**{"augment.flip": "alternating"}), source).images
    for row in plain:  # each epoch shows the image itself or its mirror image, in turns
        flips = [np.array_equal(view, row[0]) for view in row[1:]]
        assert all(
            np.array_equal(view, row[0] if same else row[0][:, ::-1]) for view, same in zip(row[1:], flips, strict=True)
        )
        assert all(a != b for a, b in pairwise(flips))


def test_the_augmentation_is_described_in_one_line() -> None:
    assert describe(Config.load().augment) == "no augmentation"
    assert describe(Config.load(**{"augment.policy": "light", "augment.flip": "none"}).augment) == (
        "light: resized_crop=0.7, color_jitter=0.1"
    )
    layers = {"library": "keras", "layers": ["RandomFlip", {"name": "CutMix"}]}
    assert describe(Config.load(augment=layers).augment) == "library=keras, layers=[RandomFlip, CutMix]"


@pytest.mark.full
def test_check_draws_beside_its_report(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {image_size: 24}\naugment: {rotation: 90, mixup: 0.5}\n", encoding="utf-8")
    found = check(images, tmp_path / "out" / "findings.json", augment=file)
    assert found.augmented == tmp_path / "out" / "augmented.png"
    assert found.to_dict()["augmented"] == str(found.augmented)
    with Image.open(found.augmented) as drawn:
        assert drawn.width > 1000
    text = found.augmented.with_suffix(".svg").read_text(encoding="utf-8")
    for word in ("original", "epoch 7", "rotation=90", "mixup=0.5"):
        assert word in text


@pytest.mark.parametrize(
    ("augment", "error", "said"),
    [
        ("foto", UsageError, "--augment: foto is neither a file nor a policy (none, light, photos,"),
        ("bad.yaml", ConfigError, "augment.rotation: received 500, allowed: a number from 0 to 180"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_anything_is_read(
    augment: str, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("augment: {rotation: 500}\n", encoding="utf-8")
    with pytest.raises(error) as caught:
        check("no such data", augment=augment)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "bad.yaml"]
