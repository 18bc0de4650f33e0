"""Recognises folders written by kcv and MLflow: among a user's images, they are not classes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

_FOLDERS: Final = frozenset({"mlruns", "mlartifacts"})
"""Folder names that only MLflow uses."""

FILES: Final = frozenset({"mlflow.db", "mlflow.db-journal", "mlflow.db-shm", "mlflow.db-wal"})
"""Names of files that MLflow leaves in the working folder."""

_RUN: Final = ({"config.yaml", "environment.json"}, {"config.yaml", "resume"}, {"model.keras"}, {"model.onnx"})
_FIGURES: Final = ({"metrics.json", "per_class.csv"}, {"comparison.json", "comparison.csv"})
_OVERLAY, _HEATMAP = "_overlay.png", "_heatmap.npy"


def is_output(name: str, others: Set[str], images: Sequence[str]) -> bool:
    """Returns whether a folder was written by kcv or MLflow.

    Args:
        name: the name of the folder.
        others: names of its folders and of its files that are not images.
        images: names of its images. A run folder has none next to its files: if there are some, the run was written
            into a folder of the user, which does not count as an output.
    """
    if name in _FOLDERS or any(files <= others for files in _FIGURES):
        return True
    if any(files <= others for files in _RUN) and not images:
        return True
    if not any(other.endswith(_HEATMAP) for other in others):
        return False
    overlays = (image for image in images if image.endswith(_OVERLAY))  # explanations
    return any(image.removesuffix(_OVERLAY) + _HEATMAP in others for image in overlays)
