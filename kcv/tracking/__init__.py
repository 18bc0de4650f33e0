"""Experiment tracking: MLflow, TensorBoard, W&B, several, none, or a custom tracker (decisions 011 and 030)."""

from kcv.tracking.buffered import BufferedTracker
from kcv.tracking.data_record import DataRecord
from kcv.tracking.mlflow import MlflowTracker
from kcv.tracking.store import RunInfo, Store, StoreRejected, StoreUnavailable
from kcv.tracking.tracker import (
    NoTracker,
    Status,
    Tracker,
    config_without_credentials,
    open_tracker,
    register_tracker,
    split_uris,
    stays_inside,
    uri_without_credentials,
)

__all__ = [
    "BufferedTracker",
    "DataRecord",
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
    "split_uris",
    "stays_inside",
    "uri_without_credentials",
]
