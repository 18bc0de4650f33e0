"""What MLflow's pages show of a run beside its metrics: reserved tags, and its data sets.

Source: MLflow documentation, "System Tags" and "Dataset Tracking"; the limits are those of `mlflow.utils.validation`.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from typing import Any

from kcv.tracking.data_record import DataRecord

USER, NOTE = "mlflow.user", "mlflow.note.content"
ONCE = frozenset((USER, NOTE))
"""Tags that stay as they are when a run is resumed: who began it, and a note that somebody may have edited."""

_DIRTY = "-dirty"  # of `git_commit` in environment.json
_MOST_SOURCE = 10_000  # characters; MLflow takes 65,535 bytes


def reserved_tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tags of a run with those that MLflow's page shows as columns: user, source, version, description.

    Args:
        tags: the content of `environment.json`, and `note`.

    Example:
        >>> reserved_tags({"git_commit": "4fe2...-dirty"})
        {'git_commit': '4fe2...-dirty', 'mlflow.source.type': 'LOCAL', 'mlflow.source.name': 'kcv',
         'mlflow.user': 'anna', 'mlflow.source.git.commit': '4fe2...', 'mlflow.source.git.dirty': 'true'}
    """
    found = {name: value for name, value in tags.items() if name != "note"}
    found |= {"mlflow.source.type": "LOCAL", "mlflow.source.name": "kcv"}
    if (user := _user()) is not None:
        found[USER] = user
    if note := tags.get("note"):
        found[NOTE] = note
    if commit := tags.get("git_commit"):
        found["mlflow.source.git.commit"] = str(commit).removesuffix(_DIRTY)
        if str(commit).endswith(_DIRTY):  # otherwise it is clean, or git is not there to say so
            found["mlflow.source.git.dirty"] = "true"
    return found


def dataset_fields(record: DataRecord) -> dict[str, str]:
    """Returns the fields of MLflow's `Dataset`.

    Its source has the form of MLflow's own classes, so that `mlflow.data.get_source` opens it; its schema is that of
    `TensorDatasetSchema`.
    """
    kind, source = _source(record)
    size = record.image_size
    profile: dict[str, Any] = {
        "num_rows": record.images,
        "num_elements": record.images * size * size * 3,
        "image_size": size,
        "fingerprint": record.fingerprint,
        "images_per_class": dict(record.classes),
    }
    features = [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, size, size, 3]}}]
    targets = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
    schema = {"mlflow_tensorspec": {"features": json.dumps(features), "targets": json.dumps(targets)}}
    return {
        "name": record.name,
        "digest": record.digest,
        "source_type": kind,
        "source": json.dumps(source),
        "schema": json.dumps(schema),
        "profile": json.dumps(profile),
    }


def _source(record: DataRecord) -> tuple[str, dict[str, Any]]:
    """Returns the type and the content of MLflow's source."""
    text = record.source[:_MOST_SOURCE]
    scheme = text.partition(":")[0].lower()
    if record.source_kind == "path":
        return "local", {"uri": text}
    if record.source_kind == "name":  # a data set that kcv brings, or downloads by itself
        return "code", {"tags": {"mlflow.source.name": "kcv", "mlflow.source.type": "LOCAL", "data.source": text}}
    if scheme in ("http", "https"):
        return "http", {"url": text}
    if scheme == "hf":
        path = text.partition(":")[2].removeprefix("//").removeprefix("datasets/")
        return "hugging_face", {"path": path}
    return (scheme if scheme in ("s3", "gs", "hdfs", "dbfs") else "local"), {"uri": text}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in a container
        return None
