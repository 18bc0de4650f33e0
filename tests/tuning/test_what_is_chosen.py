"""What kcv chooses for all trials leaves the searched keys free."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna", reason="needs the extra kcv[tune]")

from kcv.config import Config
from kcv.training import automatic
from kcv.tuning.session import _configurations


def test_a_trial_may_have_another_policy_than_the_one_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"model.name": "efficientnet_lite0", "augment.policy": "photos", "augment.crop_padding": 0}
    monkeypatch.setattr(automatic, "resolve", lambda config, *_: (config.completed(chosen), "for the test"))
    configurations = _configurations(None, {"epochs": 40})
    assert configurations({}).augment == Config.load(**{"augment.policy": "photos"}).augment
    assert configurations({"augment.policy": "light"}).augment == Config.load(**{"augment.policy": "light"}).augment
    assert configurations({"augment.rotation": 3.0}).augment.rotation == 3.0
    assert configurations({}).model.name == "efficientnet_lite0"
