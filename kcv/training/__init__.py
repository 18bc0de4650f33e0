"""Training: from a configuration to a run folder with a model in it."""

from kcv.training.run import Run
from kcv.training.trainer import train

__all__ = ["Run", "train"]
