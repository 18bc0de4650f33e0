from __future__ import annotations

import json

import pytest

from kcv.benchmark import benchmark_data
from kcv.config.policies import POLICIES
from kcv.data.augment.keras_cv import installed


def test_reading_and_augmenting_are_measured_beside_torchvision() -> None:
    rows = benchmark_data(image_size=32, batch_size=8, device="cpu", repeats=2)
    policies = [f"policy {name}" for name in POLICIES if name != "none"]
    assert [row["step"] for row in rows] == ["decode", "decode photos", "augment", *policies]
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        rates = row["images_per_second"]
        others = {"torchvision_v2", "keras", *(["keras_cv"] if installed() else [])}
        assert rates.keys() == {"kcv", "torchvision"} | (others if row["step"] == "augment" else set())
        assert min(rates.values()) > 0
        assert row["kcv_over_torchvision"] == pytest.approx(rates["kcv"] / rates["torchvision"])
