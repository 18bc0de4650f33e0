"""Where an object lies: `s3://bucket/key`, or `s3://bucket/prefix/` for all objects below it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kcv.common.redaction import data_without_credentials
from kcv.common.text import is_printable, shortened
from kcv.errors import DataError, KcvError, UsageError

SCHEME: Final = "s3://"
MOST_KEY_BYTES: Final = 1_024
"""Of a key in UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects")."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
"""Names of today's buckets are shorter and in lower case; those of old ones are as here."""


def is_object_url(named: object) -> bool:
    """Returns whether the user gave the URL of an object store that is read here."""
    return isinstance(named, str) and named.startswith(SCHEME)


def require_text(named: object) -> None:
    """Refuses the URL of an object that was made a path, which has lost a slash.

    Raises:
        UsageError: it is one.
    """
    if isinstance(named, Path) and named.as_posix().startswith("s3:/"):
        raise UsageError(f"{named}: name an object by a text, 's3://BUCKET/NAME', not by a path.")


@dataclass(frozen=True)
class Location:
    """An object, or the objects below a prefix.

    Attributes:
        bucket: the name of the bucket.
        key: the key of the object, or the prefix; a prefix is empty or ends in `/`.
    """

    bucket: str
    key: str

    def __str__(self) -> str:
        """Returns the URL."""
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def is_prefix(self) -> bool:
        """Whether this cannot be an object."""
        return not self.key or self.key.endswith("/")

    @property
    def folder(self) -> Location:
        """The prefix that an object lies below; of a prefix itself."""
        return replace(self, key=self.key[: self.key.rfind("/") + 1])

    @property
    def as_prefix(self) -> Location:
        """The prefix of this name."""
        return self if self.is_prefix else replace(self, key=f"{self.key}/")

    def below(self, name: str) -> Location:
        """Returns the object of a name below this prefix."""
        return replace(self, key=f"{self.key}{name}")

    @classmethod
    def parse(cls, url: str, error: type[KcvError] = DataError) -> Location:
        """Reads a URL.

        Args:
            url: as the user gave it.
            error: the class of the error that is raised.

        Raises:
            KcvError: of class `error`; it names no bucket, holds a user or a query, or the key is too long.

        Example:
            >>> Location.parse("s3://photos/2026/cat.jpg").key
            '2026/cat.jpg'
        """
        shown = shortened(data_without_credentials(url))
        bucket, _, key = url.removeprefix(SCHEME).partition("/")
        if data_without_credentials(url) != url or "@" in bucket:
            raise error(
                f"{shown}: the URL holds a user, a password or a query, which s3:// does not have; credentials "
                "come from the environment, a profile or the machine's role."
            )
        if not _BUCKET.fullmatch(bucket):
            raise error(f"{shown}: {shortened(bucket, 60)!r} is no name of a bucket; write s3://BUCKET/PREFIX.")
        if not is_printable(key) or len(key.encode(errors="surrogateescape")) > MOST_KEY_BYTES:
            raise error(f"{shown}: the key holds control characters, or more than {MOST_KEY_BYTES:,} bytes.")
        return cls(bucket, key)
