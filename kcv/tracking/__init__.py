"""Experiment tracking: MLflow, none, or a custom tracker (decision 011)."""

from kcv.tracking.buffered import BufferedTracker
from kcv.tracking.mlflow import MlflowTracker
from kcv.tracking.mlflow_database import stays_inside
from kcv.tracking.store import RunInfo, Store, StoreRejected, StoreUnavailable
from kcv.tracking.tracker import NoTracker, Status, Tracker, config_without_credentials, open_tracker, register_tracker

__all__ = [
    "BufferedTracker",
    "MlflowTracker",
    "NoTracker",
    "RunInfo",
    "Status",
    "Store",
    "StoreRejected",
    "StoreUnavailable",
    "Tracker",
    "config_without_credentials",
    "open_tracker",
    "register_tracker",
    "stays_inside",
]
