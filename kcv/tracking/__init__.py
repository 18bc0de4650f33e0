"""Where a run is written down: MLflow, or nowhere (decision 011)."""

from __future__ import annotations

import os

from kcv.common.redaction import hide_credentials, without_credentials
from kcv.config import TrackingConfig
from kcv.tracking.protocol import NoTracker, Status, Tracker
from kcv.tracking.store import Store
from kcv.tracking.tracker import MlflowTracker
from kcv.tracking.uri import config_without_credentials, stays_inside

__all__ = [
    "MlflowTracker",
    "NoTracker",
    "Status",
    "Tracker",
    "config_without_credentials",
    "hide_credentials",
    "open_tracker",
    "stays_inside",
    "without_credentials",
]


def open_tracker(tracking: TrackingConfig) -> Tracker:
    """Returns the tracker that a configuration asks for. Nothing is written before its `start`.

    Without a `uri` it is the one in MLFLOW_TRACKING_URI, or else `mlflow.db` in the working folder.

    Raises:
        TrackingError: the uri is of no kind that MLflow keeps runs in.
    """
    named = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = named or "sqlite:///mlflow.db"
    if uri.lower() == "none":
        return NoTracker()
    return MlflowTracker(Store(uri, named=bool(named)), tracking.experiment)
