"""The configuration of a run: a strict, typed schema, YAML files, and overrides from the command line or Python."""

from kcv.common.parameters import Device, Precision
from kcv.config.schema import SHORT_FLAGS, Config
from kcv.config.sections import (
    DEVICES,
    MIN_IMAGE_SIZE,
    MODEL_NAMES,
    PRECISIONS,
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    ResizeMode,
    TrackingConfig,
    TrainConfig,
)
from kcv.models.own import AUTO

__all__ = [
    "AUTO",
    "DEVICES",
    "MIN_IMAGE_SIZE",
    "MODEL_NAMES",
    "PRECISIONS",
    "SHORT_FLAGS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "Device",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "ResizeMode",
    "TrackingConfig",
    "TrainConfig",
]
