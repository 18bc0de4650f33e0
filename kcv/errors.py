"""The errors that a user can cause and mend.

Every one ends, at the command line, in one clear line on stderr and exit code 2. Anything else that escapes a verb is
a bug in kcv and exits with code 1 and a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KcvError(Exception):
    """Something the user can fix; the message says what, where and how."""

    exit_code = 2


class UsageError(KcvError):
    """A verb was called with arguments that it does not have."""


class ConfigError(KcvError):
    """A configuration that cannot be run. Holds every problem found, not only the first.

    Args:
        problems: one line for each problem.
        origin: the file the values came from, where there is one.
    """

    def __init__(self, problems: Iterable[str], origin: str | None = None) -> None:
        self.problems = list(problems)
        self.origin = origin
        where = f"{origin}: " if origin else ""
        super().__init__("\n".join(where + problem for problem in self.problems))


class DataError(KcvError):
    """Images, labels or splits that cannot be used for what was asked."""


class ImageError(KcvError):
    """One image that cannot be read."""


class ArtifactError(KcvError):
    """A model file that is missing, damaged, foreign or unsafe to open."""


class WeightsError(KcvError):
    """Pretrained weights that are missing, damaged, unsafe to open, or of another network."""


class ExportError(KcvError):
    """A model that cannot be exported as asked."""


class ParityError(KcvError):
    """An exported file that does not compute what its model computes; it is not kept."""

    exit_code = 1


class DeviceError(KcvError):
    """A device or precision that this machine does not have."""


class TrackingError(KcvError):
    """A tracking store that cannot be used."""


class OutputError(KcvError):
    """A place that results cannot be written to."""


LONGEST_MEANT = 200
"""Characters of a name that may have been meant for another one: to compare longer ones would take too long."""


def first_line(error: BaseException, most: int = 150) -> str:
    """Returns the first line of what an error says, or its class where it says nothing; at most `most` characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def one_line(error: BaseException) -> str:
    """Returns all that an error says, its lines made one, or its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the nearest allowed name, or an empty string when none is near."""
    if len(name) > LONGEST_MEANT:
        return ""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
