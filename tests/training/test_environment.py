"""What a run writes down about where it ran."""

from __future__ import annotations

import importlib.metadata

import pytest

from kcv.training import environment


def test_a_package_that_another_stands_in_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_mlflow(name: str) -> str:
        if name == "mlflow":  # mlflow-skinny is installed in its place
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_mlflow)
    described = environment.describe(device="cpu", precision="float32", seed=0, data_fingerprint="0", weights=None)
    assert "mlflow" not in described["packages"]
    assert described["packages"]["keras"] == version("keras")
