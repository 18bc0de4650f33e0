"""What a folder tree was taken for, and what of it was left out: the same words for `train` and `check`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kcv.common.text import plain, shortened

NOT_READ: Final = "not a format that is read"
"""Why most files are left out."""

_CLASSES = 8  # named in the summary
_SUFFIXES = 4  # named of what is left out
_NAME = 60  # characters of a name


@dataclass(frozen=True)
class LeftOut:
    """Files that are not used.

    Attributes:
        suffix: of their names, lower case.
        count: how many there are.
        why: in words.
        example: the path of the first, below the root.
    """

    suffix: str
    count: int
    why: str
    example: str

    @property
    def message(self) -> str:
        """All of it in a line."""
        kind = f"{self.suffix} file" if self.suffix else "file without a suffix"
        plural = "" if self.count == 1 else "s"
        return f"{self.count:,} {kind}{plural}, {self.why}: {self.example}{' ...' if self.count > 1 else ''}"


@dataclass(frozen=True)
class Understood:
    """What a folder tree was taken for.

    Attributes:
        class_names: the classes.
        folders: under each split, the folder that it was read from, below the root. Empty where there are no splits.
        counts: images under each split; of a tree without splits under `train`.
        left_out: files that are not used.
        outputs: folders that kcv or MLflow made, which are not looked at.
        notes: what else a person should know, a sentence each.
    """

    class_names: Sequence[str]
    folders: Mapping[str, str]
    counts: Mapping[str, int]
    left_out: Sequence[LeftOut] = ()
    outputs: Sequence[str] = ()
    notes: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Returns a few short lines for a person; what a terminal would obey in names is escaped."""
        names = [shortened(name, _NAME) for name in self.class_names[:_CLASSES]]
        more = f" and {len(self.class_names) - _CLASSES:,} more" if len(self.class_names) > _CLASSES else ""
        classes = f"{len(self.class_names):,} class{'' if len(self.class_names) == 1 else 'es'}"
        if self.folders:
            splits = [f"{split} ({self.counts[split]:,}) from {place}/" for split, place in self.folders.items()]
            found = [f"splits: {', '.join(splits)}"]
        else:
            total = sum(self.counts.values())
            found = [f"no splits: {total:,} image{'' if total == 1 else 's'} in class folders"]
        found.append(f"{classes}: {', '.join(names)}{more}")
        found += self.notes
        by_reason: dict[str, list[LeftOut]] = defaultdict(list)
        for one in self.left_out:
            by_reason[one.why].append(one)
        found += [_left_out(why, files) for why, files in by_reason.items()]
        if self.outputs:
            shown = ", ".join(self.outputs[:_SUFFIXES]) + (", ..." if len(self.outputs) > _SUFFIXES else "")
            found.append(f"not looked at: {shown}, made by kcv or MLflow")
        return [plain(line) for line in found]

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {
            "splits": dict(self.folders),
            "left_out": [
                {"suffix": one.suffix, "files": one.count, "why": one.why, "example": one.example}
                for one in self.left_out
            ],
            "outputs": list(self.outputs),
            "summary": self.lines(),
        }


def _left_out(why: str, files: Sequence[LeftOut]) -> str:
    """Returns the line for all files that are left out for one reason."""
    total = sum(one.count for one in files)
    kinds = [f"{one.count:,} {one.suffix or 'without a suffix'}" for one in files]
    shown = ", ".join(kinds[:_SUFFIXES]) + (", ..." if len(kinds) > _SUFFIXES else "")
    example = f"{shortened(files[0].example, _NAME)}{' ...' if total > 1 else ''}"
    return f"left out: {total:,} file{'' if total == 1 else 's'} ({shown}), {why}: {example}"
