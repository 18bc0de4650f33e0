"""Writes a finished file to a store, so that the object is there whole or not at all."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kcv.errors import DataError, OutputError
from kcv.stores.client import client, code_of, retried
from kcv.stores.listing import find_object
from kcv.stores.location import Location

PART_BYTES: Final = 2**25
"""Of a part of a large object; there are at most 10,000 of them, and each but the last has at least 5 MiB."""
MOST_PARTS: Final = 10_000


def require_writable(place: Location) -> None:
    """Begins to write an object and gives up, which needs the same rights as writing it and leaves nothing.

    Raises:
        OutputError: there is no such bucket, it may not be written, or the store cannot be reached.
    """
    where = {"Bucket": place.bucket, "Key": place.key}
    begun = retried(place, lambda: client().calls.create_multipart_upload(**where), OutputError, "written")
    where["UploadId"] = begun["UploadId"]
    with contextlib.suppress(OutputError):  # what stays is empty and invisible
        retried(place, lambda: client().calls.abort_multipart_upload(**where), OutputError, "written")


def upload(path: Path, place: Location) -> None:
    """Writes a file to a store.

    A small file is one request, which a store takes as a whole or refuses. Of a large one the parts are sent first, and
    the object appears when all of them are there: a process that is killed before leaves no object, and one that stood
    there stays. Each part has a checksum that the store compares, and may be sent again without harm.

    Args:
        path: the file.
        place: the object; one that is there is replaced.

    Raises:
        OutputError: the store refuses, or cannot be reached; or the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= PART_BYTES:
                body = stream.read()
                _sent(place, "put_object", body, Bucket=place.bucket, Key=place.key)
            else:
                _in_parts(stream, size, place)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _in_parts(stream: Any, size: int, place: Location) -> None:
    where = {"Bucket": place.bucket, "Key": place.key}
    begun = retried(place, lambda: client().calls.create_multipart_upload(**where), OutputError, "written")
    where["UploadId"] = begun["UploadId"]
    parts: list[dict[str, Any]] = []
    try:
        for number, body in enumerate(_pieces(stream, max(PART_BYTES, -(-size // MOST_PARTS))), start=1):
            tag = _sent(place, "upload_part", body, PartNumber=number, **where)
            parts.append({"ETag": tag, "PartNumber": number})
        _complete(place, where, parts, size)
    except BaseException:
        _give_up(where)
        raise


def _pieces(stream: Any, size: int) -> Iterator[bytes]:
    while piece := stream.read(size):
        yield piece


def _sent(place: Location, call: str, body: bytes, **where: Any) -> str:
    """Sends some bytes, and returns the ETag that the store gives them."""
    checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode("ascii")
    calls = client().calls
    answer = retried(
        place, lambda: getattr(calls, call)(Body=body, ContentMD5=checksum, **where), OutputError, "written"
    )
    tag: str = answer.get("ETag", "")
    return tag


def _complete(place: Location, where: dict[str, Any], parts: list[dict[str, Any]], size: int) -> None:
    """Makes the object of its parts. If an answer is lost, the object is there and the upload is not known any more."""
    from botocore.exceptions import ClientError

    def asked() -> None:
        try:
            client().calls.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise
            try:
                found = find_object(place)
            except DataError:  # it may be written but not read
                found = None
            if found is None or found.size != size or not found.etag.endswith(f'-{len(parts)}"'):
                raise

    retried(place, asked, OutputError, "written")


def _give_up(where: dict[str, Any]) -> None:
    # One try: what stays is invisible, and the rules of a bucket remove it.
    with contextlib.suppress(Exception):
        client().calls.abort_multipart_upload(**where)
