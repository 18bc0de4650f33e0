"""Lists the objects below a prefix, page by page, within a bound."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from kcv.common.text import is_printable
from kcv.errors import DataError
from kcv.stores.client import MISSING, REFUSED, client, code_of, retried
from kcv.stores.location import MOST_KEY_BYTES, Location

MOST_OBJECTS: Final = 5_000_000
MOST_SECONDS: Final = 3_600.0
PAGE: Final = 1_000
"""Keys of one answer; the most that S3 gives."""
_MOST_SIZE: Final = 2**60
_MOST_ETAG: Final = 128
_PATTERN: Final = re.compile(r"[*?]")


@dataclass(frozen=True)
class StoredObject:
    """An object, as it was listed.

    Attributes:
        place: where it lies.
        size: its size in bytes.
        etag: what the store calls this version of its content, with quotes; empty if it does not say.
    """

    place: Location
    size: int
    etag: str

    def __str__(self) -> str:
        """Returns its URL."""
        return str(self.place)


def find_object(place: Location) -> StoredObject | None:
    """Returns an object, or None if there is none of that key.

    Raises:
        DataError: it may be listed but not read, or the store cannot be reached.
    """
    from botocore.exceptions import ClientError

    if place.is_prefix:
        return None

    def asked() -> Any:
        try:
            return client().calls.head_object(Bucket=place.bucket, Key=place.key)
        except ClientError as error:
            code = code_of(error)
            # Without the right to list, a store says 403 of what is not there. Listing tells the two apart.
            if code in MISSING or (code in REFUSED and not _is_listed(place)):
                return None
            raise

    answer = retried(place, asked)
    return None if answer is None else _object(place, answer.get("ContentLength"), answer.get("ETag"))


def _is_listed(place: Location) -> bool:
    """Returns whether a listing shows an object; False where nothing may be listed."""
    from botocore.exceptions import ClientError

    def asked() -> Any:
        try:
            return client().calls.list_objects_v2(Bucket=place.bucket, Prefix=place.key, MaxKeys=1)
        except ClientError as error:
            if code_of(error) in REFUSED:
                return {}
            raise

    # Of all keys that begin with this one, the first is the key itself.
    return any(entry.get("Key") == place.key for entry in retried(place, asked, doing="listed").get("Contents", ()))


def below(prefix: Location, *, recursive: bool = True) -> Iterator[StoredObject]:
    """Yields the objects below a prefix in the order of their keys; one page of them is held at a time.

    Keys that no file could have are passed over: with an empty part, `.` or `..`, or with control characters.

    Args:
        prefix: the prefix; a key without `/` at its end is the beginning of a name.
        recursive: whether those below a further `/` belong to them.

    Raises:
        DataError: the store refuses or cannot be reached, or there are too many objects.
    """
    asked: dict[str, Any] = {"Bucket": prefix.bucket, "Prefix": prefix.key, "MaxKeys": PAGE}
    if not recursive:
        asked["Delimiter"] = "/"
    end, count = time.monotonic() + MOST_SECONDS, 0
    while True:
        page = retried(prefix, lambda: client().calls.list_objects_v2(**asked), doing="listed")
        for entry in page.get("Contents", ()):
            count += 1
            key = entry.get("Key")
            if count > MOST_OBJECTS:
                raise DataError(f"{prefix}: holds more than {MOST_OBJECTS:,} objects; name a part of it, or put "
                                "the images into Parquet files or WebDataset shards.")  # fmt: skip
            if isinstance(key, str) and key.startswith(prefix.key) and is_file_name(key[len(prefix.folder.key) :]):
                yield _object(replace(prefix, key=key), entry.get("Size"), entry.get("ETag"))
        token = page.get("NextContinuationToken")
        if not page.get("IsTruncated") or not token:
            return
        if token == asked.get("ContinuationToken") or time.monotonic() > end:
            raise DataError(f"{prefix}: cannot be listed within {MOST_SECONDS:,.0f} seconds.")
        asked["ContinuationToken"] = token


def is_file_name(name: str) -> bool:
    """Returns whether the rest of a key is the path of a file: no markers of folders, and nothing that leads out."""
    return (
        len(name.encode(errors="surrogateescape")) <= MOST_KEY_BYTES
        and is_printable(name)
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def has_pattern(place: Location) -> bool:
    """Returns whether a key holds a wildcard."""
    return _PATTERN.search(place.key) is not None


def before_pattern(pattern: Location) -> Location:
    """Returns the beginning of a key before its first wildcard, which all keys that match it have in common."""
    first = _PATTERN.search(pattern.key)
    return pattern if first is None else replace(pattern, key=pattern.key[: first.start()])


def matching(pattern: Location) -> Iterator[StoredObject]:
    """Yields the objects whose keys match a pattern, like paths: `*` and `?` match no `/`, `**/` does.

    Raises:
        DataError: as for `below`.
    """
    fits = re.compile(_expression(pattern.key)).fullmatch
    return (one for one in below(before_pattern(pattern)) if fits(one.place.key))


def _expression(pattern: str) -> str:
    """Returns the regular expression of a pattern."""
    meant = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(meant.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*|\?)", pattern))


def _object(place: Location, size: object, etag: object) -> StoredObject:
    if not isinstance(size, int) or not 0 <= size < _MOST_SIZE:
        raise DataError(f"{place}: its store tells no size that is one.")
    tag = etag if isinstance(etag, str) and len(etag) <= _MOST_ETAG and etag.isascii() and etag.isprintable() else ""
    return StoredObject(place, size, tag)
