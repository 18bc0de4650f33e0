"""The files that MLflow keeps around a model file."""

from __future__ import annotations

import importlib.metadata

import pytest
import yaml

from kcv.exporting.mlflow_folder import mlflow_files
from kcv.training.run_folder import Run


def test_mlflow_skinny_may_stand_in_for_mlflow(trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_mlflow(name: str) -> str:
        if name == "mlflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    whole = mlflow_files(trained_run.model_path)
    monkeypatch.setattr(importlib.metadata, "version", without_mlflow)
    skinny = mlflow_files(trained_run.model_path)
    assert f"mlflow=={version('mlflow')}\n" in str(whole["requirements.txt"])
    assert "mlflow-skinny" not in str(whole["requirements.txt"])
    assert f"mlflow-skinny=={version('mlflow-skinny')}\n" in str(skinny["requirements.txt"])
    assert yaml.safe_load(str(skinny["MLmodel"]))["mlflow_version"] == version("mlflow-skinny")
