"""One stage or two: what is frozen in which epochs, and with which learning rates."""

from __future__ import annotations

import pytest

from kcv.config import Config
from kcv.training.loop import Stage, learns_batch_norm, plan
from kcv.training.optimizer import build_optimizer, build_schedule


def config(**overrides: object) -> Config:
    return Config.load(**{"model": "resnet50", "epochs": 6, **overrides})


def test_fine_tuning_is_one_stage() -> None:
    assert plan(config()) == (Stage(0, 6, frozen=False, last=True),)
    assert learns_batch_norm(config())


def test_feature_extraction_is_one_frozen_stage() -> None:
    assert plan(config(**{"model.mode": "feature_extraction"})) == (Stage(0, 6, frozen=True, last=True),)


def test_unfreezing_makes_two_stages_and_leaves_batch_normalisation_frozen() -> None:
    two = config(**{"model.unfreeze_after": 2})
    assert plan(two) == (Stage(0, 2, frozen=True, last=False), Stage(2, 6, frozen=False, last=True))
    assert not learns_batch_norm(two)


@pytest.mark.parametrize("choice", [True, False])
def test_batch_normalisation_is_as_the_user_says(choice: bool) -> None:
    for frozen in (0, 2):
        assert (
            learns_batch_norm(config(**{"model.freeze_batch_norm": choice, "model.unfreeze_after": frozen})) != choice
        )


def test_a_warm_up_fits_into_its_stage() -> None:
    optim = config(**{"optim.warmup_epochs": 3.0}).optim
    assert build_schedule(optim, steps_per_epoch=10, epochs=2).warmup_steps == 5
    assert build_schedule(optim, steps_per_epoch=10, epochs=4).warmup_steps == 30


def test_a_fraction_of_warm_up_is_one_of_each_stage() -> None:
    optim = config(**{"optim.warmup_fraction": 0.2}).optim
    assert build_schedule(optim, steps_per_epoch=10, epochs=20).warmup_steps == 40
    assert build_schedule(optim, steps_per_epoch=10, epochs=1).warmup_steps == 2


class Variable:
    def __init__(self, path: str) -> None:
        self.path, self.name = path, path.split("/")[-1]


def test_learning_rates_fall_with_depth_and_rise_for_biases() -> None:
    optim = config(**{"optim.backbone_lr_scale": 0.1, "optim.layer_decay": 0.5, "optim.bias_lr_scale": 4.0}).optim
    optimizer = build_optimizer(optim, steps_per_epoch=3, epochs=2, ema=None, depths={"stem": 2, "top": 0})
    rates = {
        path: optimizer._lr_scale(Variable(path))
        for path in ("logits/kernel", "top/kernel", "stem/kernel", "stem/beta")
    }
    assert rates == pytest.approx({"logits/kernel": 1.0, "top/kernel": 0.1, "stem/kernel": 0.025, "stem/beta": 0.1})
