"""Folders that kcv and MLflow make: where they lie among the images of a user, they are no classes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

_FOLDERS: Final = frozenset({"mlruns", "mlartifacts"})
"""Names that nobody else gives."""

FILES: Final = frozenset({"mlflow.db", "mlflow.db-journal", "mlflow.db-shm", "mlflow.db-wal"})
"""Names of files that they leave in the working folder."""

_RUN: Final = ({"config.yaml", "environment.json"}, {"config.yaml", "resume"}, {"model.keras"}, {"model.onnx"})
_FIGURES: Final = ({"metrics.json", "per_class.csv"}, {"comparison.json", "comparison.csv"})
_OVERLAY, _HEATMAP = "_overlay.png", "_heatmap.npy"


def is_output(name: str, others: Set[str], images: Sequence[str]) -> bool:
    """Whether a folder was made by kcv or MLflow.

    Args:
        name: of the folder.
        others: names of the folders in it, and of its files that are no images.
        images: names of its images. A run has none beside its files: where there are some, it was written into a
            folder of the user, which stays one.
    """
    if name in _FOLDERS or any(files <= others for files in _FIGURES):
        return True
    if any(files <= others for files in _RUN) and not images:
        return True
    if not any(other.endswith(_HEATMAP) for other in others):
        return False
    overlays = (image for image in images if image.endswith(_OVERLAY))  # explanations
    return any(image.removesuffix(_OVERLAY) + _HEATMAP in others for image in overlays)
