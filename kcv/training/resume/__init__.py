"""A run that was cut short, continued to the bit: its whole state, on disk, and back."""

from kcv.training.resume.consent import chose_data, require_named, signed_choice
from kcv.training.resume.content import Plan
from kcv.training.resume.lock import lock
from kcv.training.resume.record import Record
from kcv.training.resume.state import State, capture, restore, restore_generators, restore_metrics
from kcv.training.resume.stopping import Stopping
from kcv.training.resume.store import CheckpointStore
from kcv.training.resume.writer import Writer

__all__ = [
    "CheckpointStore",
    "Plan",
    "Record",
    "State",
    "Stopping",
    "Writer",
    "capture",
    "chose_data",
    "lock",
    "require_named",
    "restore",
    "restore_generators",
    "restore_metrics",
    "signed_choice",
]  # fmt: skip
