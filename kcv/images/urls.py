"""Images at URLs that the user gives: fetched when they are needed, and never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TypeAlias

from kcv import images
from kcv.common.download import fetch, is_url
from kcv.errors import DataError, ImageError

MOST_BYTES: Final = 256 * 2**20
MOST_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Url:
    """An image on a server.

    Attributes:
        text: the URL as given.
    """

    text: str

    def __str__(self) -> str:
        """Returns the URL."""
        return self.text

    def read(self) -> bytes:
        """Fetches the file.

        Raises:
            ImageError: the file cannot be downloaded.
        """
        try:
            return fetch(self.text, most=MOST_BYTES, seconds=MOST_SECONDS)
        except DataError as error:
            raise ImageError(str(error)) from None


Image: TypeAlias = Path | Url
"""An image on disk or at a URL."""

Find: TypeAlias = Callable[[], Iterator[Image]]


def found(named: Sequence[str | Path], *, recursive: bool) -> Iterator[Image]:
    """Yields the images of files, folders, patterns and URLs, in the given order; see `kcv.images.find`.

    Raises:
        DataError: a path does not exist, or contains no image.
    """
    parts: list[Iterable[Image]] = [
        [Url(str(given))] if is_url(given) else images.find([given], recursive=recursive) for given in named
    ]
    return chain.from_iterable(parts)
