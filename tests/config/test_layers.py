from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kcv.cli import main
from kcv.config import Config
from kcv.errors import ConfigError

LAYERS = [{"name": "RandAugment", "magnitude": 0.3}, {"name": "CutMix"}]


def test_layers_are_the_same_from_a_file_from_the_command_line_and_from_python(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "augment:\n  library: keras_cv\n  layers:\n    - {name: RandAugment, magnitude: 0.3}\n    - CutMix\n"
    )
    read = Config.load(tmp_path / "c.yaml")
    typed = Config.load(
        **{"augment.library": "keras_cv", "augment.layers": "[{name: RandAugment, magnitude: 0.3}, CutMix]"}
    )
    given = Config.load(augment={"library": "keras_cv", "layers": ("RandAugment", "CutMix")})
    assert read.augment.layers == typed.augment.layers == LAYERS
    assert given.augment.layers == [{"name": "RandAugment"}, {"name": "CutMix"}]


def test_the_resolved_configuration_can_be_run_again(tmp_path: Path) -> None:
    choice = {"name": "RandomChoice", "layers": ["GridMask", {"name": "RandomRotation", "factor": (-0.1, 0.1)}]}
    config = Config.load(
        augment={"library": "keras_cv", "layers": [choice, {"name": "RandomApply", "layer": "GridMask"}]}
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert Config.load(tmp_path / "config.yaml") == config
    assert Config.from_dict(config.to_dict()) == config
    assert config.augment.layers[0]["layers"][1] == {"name": "RandomRotation", "factor": [-0.1, 0.1]}


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"layers": LAYERS}, "augment.layers: are layers of keras-cv, and augment.library is 'kcv'"),
        ({"library": "keras_cv"}, "augment.layers: received [], allowed: at least one layer"),
        ({"library": "kerascv"}, "Did you mean 'keras_cv'?"),
        ({"library": "keras_cv", "layers": LAYERS, "cutmix": 1.0}, "augment.cutmix: received 1.0, allowed: 0.0"),
        (
            {"library": "keras_cv", "layers": LAYERS, "flip": "random"},
            "augment.flip: received 'random', allowed: 'none'",
        ),
        ({"library": "keras_cv", "layers": "CutMix"}, "augment.layers: received 'CutMix', allowed: a list of layers"),
        ({"library": "keras_cv", "layers": "[CutMix"}, "augment.layers: received '[CutMix', allowed: a list of layers"),
        ({"library": "keras_cv", "layers": [3]}, "augment.layers[0]: received 3, allowed: the name of a layer"),
        ({"library": "keras_cv", "layers": [{"alpha": 1}]}, "augment.layers[0].name: received None"),
        ({"library": "keras_cv", "layers": [{"name": "CutMix", "seed": 3}]}, "because the run's seed decides"),
        ({"library": "keras_cv", "layers": [{"name": "RandAugment", "value_range": [0, 1]}]}, "allowed: [0, 255]"),
        ({"library": "keras_cv", "layers": [{"name": "CutMix", "alpha": {"a": 1}}]}, "augment.layers[0].alpha"),
        ({"library": "keras_cv", "layers": [{"name": "CutMix", "alpha": float("inf")}]}, "a finite number"),
        ({"library": "keras_cv", "layers": [{"name": "RandomApply", "layer": {"rate": 1}}]}, "layers[0].layer.name"),
    ],
)
def test_what_is_wrong_is_said_without_keras_cv(augment: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(augment=augment)
    (line,) = caught.value.problems
    assert said in line


def test_features_of_mixed_images_cannot_be_kept() -> None:
    layers = [{"name": "RandomApply", "layer": {"name": "MixUp"}}]
    with pytest.raises(ConfigError, match="features of mixed images cannot be kept"):
        Config.load(
            augment={"library": "keras_cv", "layers": layers},
            model={"name": "resnet50", "mode": "feature_extraction", "feature_views": 2},
        )


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--augment.library=keras_cv", "--augment.layers=[CutMix]", "--augment.cutout=8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "augment.cutout: received 8, allowed: 0" in line
