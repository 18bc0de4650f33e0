"""The configuration of a run: a strict, typed schema, YAML files, and overrides from the command line or Python."""

from kcv.config.schema import (
    MIN_IMAGE_SIZE,
    MODEL_NAMES,
    SHORT_FLAGS,
    AugmentConfig,
    Config,
    DataConfig,
    Device,
    ModelConfig,
    OptimConfig,
    Precision,
    ResizeMode,
    TrackingConfig,
    TrainConfig,
)

__all__ = [
    "MIN_IMAGE_SIZE",
    "MODEL_NAMES",
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
