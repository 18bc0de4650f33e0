"""What happens around the steps of `fit`, one concern a file."""

from kcv.training.callbacks.best import BestModel
from kcv.training.callbacks.checkpoint import Checkpoint
from kcv.training.callbacks.common import CommonLogs
from kcv.training.callbacks.epochs import EpochClock
from kcv.training.callbacks.finite import Diverged, FiniteLoss
from kcv.training.callbacks.history import HistoryFile
from kcv.training.callbacks.patience import Patience
from kcv.training.callbacks.report import Report
from kcv.training.callbacks.statistics import FreshStatistics
from kcv.training.callbacks.track import Track

__all__ = [
    "BestModel", "Checkpoint", "CommonLogs", "Diverged", "EpochClock", "FiniteLoss", "FreshStatistics", "HistoryFile",
    "Patience", "Report", "Track",
]  # fmt: skip
