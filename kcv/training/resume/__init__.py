"""A run that was cut short, continued to the bit: its whole state, on disk, and back."""

from kcv.training.resume.lock import lock
from kcv.training.resume.record import Record
from kcv.training.resume.state import State, capture, restore, restore_generators, restore_metrics
from kcv.training.resume.stopping import Stopping
from kcv.training.resume.store import CheckpointStore
from kcv.training.resume.writer import Writer

__all__ = [
    "CheckpointStore", "Record", "State", "Stopping", "Writer", "capture", "lock", "restore",
    "restore_generators", "restore_metrics",
]  # fmt: skip
