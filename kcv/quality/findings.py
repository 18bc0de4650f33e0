"""The kinds of findings of a check, and their severity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Severity = Literal["error", "warning"]

KINDS: Final[dict[str, tuple[Severity, str]]] = {
    "unreadable": ("error", "cannot be read as an image"),
    "split": ("error", "cannot be split for training"),
    "leak": ("error", "the same image in several splits"),
    "conflict": ("error", "the same image in several classes"),
    "alike": ("warning", "more than half of the images look like others"),
    "near_leak": ("warning", "nearly the same image in several splits"),
    "near_conflict": ("warning", "nearly the same image in several classes"),
    "label_error": ("warning", "looks like another class than its label"),
    "duplicate": ("warning", "the same image several times"),
    "near_duplicate": ("warning", "nearly the same image several times"),
    "suffix": ("warning", "named like another format than it is"),
    "layout": ("warning", "folders that could have been meant otherwise"),
    "names": ("warning", "class names that differ only by case, spaces or invisible characters"),
    "ignored": ("warning", "in the folder, but not read"),
    "range": ("warning", "numbers of more than 8 bits that do not fit how they are read"),
    "blank": ("warning", "one colour all over"),
    "odd_size": ("warning", "of an odd size or shape"),
    "imbalance": ("warning", "classes of very different sizes"),
}
"""Severity and description by kind: an `error` prevents training or falsifies results; a person judges a `warning`."""


@dataclass(frozen=True)
class SampleRef:
    """An image that a finding is about: its name, split and class."""

    name: str
    split: str
    class_name: str


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        kind: one of `KINDS`.
        message: a description of the finding.
        images: the images it is about; for duplicates, the whole group.
        similarity: for near duplicates, the similarity of the most similar pair, see `kcv.quality.copies.duplicates`.
    """

    kind: str
    message: str
    images: Sequence[SampleRef] = ()
    similarity: float | None = None

    @property
    def severity(self) -> Severity:
        """The severity of the finding's kind."""
        return KINDS[self.kind][0]

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as plain values."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "message": self.message,
            "similarity": self.similarity,
            "pictures": [
                {"name": image.name, "split": image.split, "class": image.class_name} for image in self.images
            ],
        }
