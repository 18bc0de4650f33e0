"""Describes how a folder tree was interpreted and what was left out, in the same words for `train` and `check`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kcv.common.text import printable, shortened

NOT_READ: Final = "not a format that is read"
"""The most common reason why files are left out."""

UPWARDS: Final = "to a folder above"
"""The most common reason why links are not followed."""

_CLASSES = 8  # class names in the summary
_SUFFIXES = 4  # suffixes of left-out files in the summary
_FOLDERS = 4  # folders that are not looked at, and links that are not followed
_NAME = 60  # characters per name


@dataclass(frozen=True)
class LeftOut:
    """Files that are not used.

    Attributes:
        suffix: the suffix of their names, in lower case.
        count: the number of files.
        why: the reason, in words.
        example: the path of the first one, below the root.
    """

    suffix: str
    count: int
    why: str
    example: str

    @property
    def message(self) -> str:
        """The files and the reason in one line."""
        kind = f"{self.suffix} file" if self.suffix else "file without a suffix"
        plural = "" if self.count == 1 else "s"
        return f"{self.count:,} {kind}{plural}, {self.why}: {self.example}{' ...' if self.count > 1 else ''}"


@dataclass(frozen=True)
class Link:
    """A link to a folder that is not followed.

    Attributes:
        place: its path below the root.
        why: the reason, in words.
    """

    place: str
    why: str


@dataclass(frozen=True)
class Understood:
    """How a folder tree was interpreted.

    Attributes:
        class_names: the class names.
        folders: by split, the folder that it was read from, below the root; empty if there are no splits.
        counts: the number of images by split; under `train` for a tree without splits.
        left_out: files that are not used.
        outputs: folders written by kcv or MLflow, which are ignored.
        links: links to folders that are not followed.
        notes: doubts that the user should look at, one sentence each.
        listed: the label file that names the images, if there is one.
        facts: what else was found, one sentence each.
    """

    class_names: Sequence[str]
    folders: Mapping[str, str]
    counts: Mapping[str, int]
    left_out: Sequence[LeftOut] = ()
    outputs: Sequence[str] = ()
    links: Sequence[Link] = ()
    notes: Sequence[str] = ()
    listed: str | None = None
    facts: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Returns a few short readable lines; terminal control characters in names are escaped."""
        names = [shortened(name, _NAME) for name in self.class_names[:_CLASSES]]
        more = f" and {len(self.class_names) - _CLASSES:,} more" if len(self.class_names) > _CLASSES else ""
        classes = f"{len(self.class_names):,} class{'' if len(self.class_names) == 1 else 'es'}"
        if self.folders and self.listed:
            splits = [f"{split} ({self.counts[split]:,})" for split in self.folders]
            found = [f"splits: {', '.join(splits)} of {shortened(self.listed, _NAME)}"]
        elif self.folders:
            splits = [f"{split} ({self.counts[split]:,}) from {place}/" for split, place in self.folders.items()]
            found = [f"splits: {', '.join(splits)}"]
        else:
            total = sum(self.counts.values())
            where = shortened(self.listed, _NAME) if self.listed else "class folders"
            found = [f"no splits: {total:,} image{'' if total == 1 else 's'} in {where}"]
        found.append(f"{classes}: {', '.join(names)}{more}")
        found += [*self.facts, *self.notes]
        by_reason: dict[str, list[LeftOut]] = defaultdict(list)
        for one in self.left_out:
            by_reason[one.why].append(one)
        found += [_left_out(why, files) for why, files in by_reason.items()]
        if self.outputs:
            found.append(f"not looked at: {_places(self.outputs)}, made by kcv or MLflow")
        links: dict[str, list[str]] = defaultdict(list)
        for link in self.links:
            links[link.why].append(link.place)
        for why, places in links.items():
            found.append(f"not followed: {_places(places)}, {'a link' if len(places) == 1 else 'links'} {why}")
        return [printable(line) for line in found]

    def to_dict(self) -> dict[str, Any]:
        """Returns the interpretation as plain values."""
        return {
            "splits": dict(self.folders),
            "left_out": [
                {"suffix": one.suffix, "files": one.count, "why": one.why, "example": one.example}
                for one in self.left_out
            ],
            "outputs": list(self.outputs),
            "links": [{"link": link.place, "why": link.why} for link in self.links],
            "summary": self.lines(),
        }


def _places(places: Sequence[str]) -> str:
    shown = ", ".join(shortened(place, _NAME) for place in places[:_FOLDERS])
    return shown + (", ..." if len(places) > _FOLDERS else "")


def _left_out(why: str, files: Sequence[LeftOut]) -> str:
    """Returns the line about all files that are left out for one reason."""
    total = sum(one.count for one in files)
    kinds = [f"{one.count:,} {one.suffix or 'without a suffix'}" for one in files]
    shown = ", ".join(kinds[:_SUFFIXES]) + (", ..." if len(kinds) > _SUFFIXES else "")
    example = f"{shortened(files[0].example, _NAME)}{' ...' if total > 1 else ''}"
    return f"left out: {total:,} file{'' if total == 1 else 's'} ({shown}), {why}: {example}"
