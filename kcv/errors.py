"""Errors that a user can fix.

On the command line, each is reported on stderr with exit code 2 (a ParityError with 1). Any other exception of a verb
is a bug in kcv and exits with code 1 and a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator


class KcvError(Exception):
    """An error that the user can fix; the message says what is wrong, where, and how to fix it."""

    exit_code = 2


class UsageError(KcvError):
    """A verb was called with invalid arguments."""


class ConfigError(KcvError):
    """An invalid configuration. Contains all problems found, not only the first.

    Args:
        problems: one line per problem.
        origin: the file of the values, if there is one.
    """

    def __init__(self, problems: Iterable[str], origin: str | None = None) -> None:
        self.problems = list(problems)
        self.origin = origin
        where = f"{origin}: " if origin else ""
        super().__init__("\n".join(where + problem for problem in self.problems))


class DataError(KcvError):
    """Images, labels or splits that are not usable for the requested task."""


class ImageError(KcvError):
    """One image that cannot be read."""


class FormatError(ImageError):
    """A file that is no image, or one in a format that kcv does not read."""


class ArtifactError(KcvError):
    """A model file that is missing, damaged, unsafe to open, or not written by kcv."""


class WeightsError(KcvError):
    """Pretrained weights that are missing, damaged, unsafe to open, or those of another network."""


class ExportError(KcvError):
    """A model that cannot be exported as requested."""


class ParityError(KcvError):
    """An exported file whose results differ from those of its model; the file is not kept."""

    exit_code = 1


class DeviceError(KcvError):
    """A device or precision that this machine does not have."""


class TrackingError(KcvError):
    """A tracking store that cannot be used."""


class HubError(KcvError):
    """A Hugging Face Hub that cannot be reached, or refuses."""


class OutputError(KcvError):
    """A location that results cannot be written to."""


LONGEST_MEANT = 200
"""The longest name, in characters, for which similar names are searched; longer ones would take too long."""


def first_line(error: BaseException, most: int = 150) -> str:
    """Returns the first line of an error's message, cut to `most` characters, or its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def one_line(error: BaseException) -> str:
    """Returns the message of an error joined to one line, or its class if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and those that led to it, each once; the innermost is the last."""
    seen: set[int] = set()  # libraries chain errors by hand, and may do so in a circle
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the most similar allowed name, or an empty string if none is similar."""
    if len(name) > LONGEST_MEANT:
        return ""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
