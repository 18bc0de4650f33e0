"""Objects listed, read and written over a line with faults: tried again with a limit, nothing lost, nothing twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import S3
from variants import variants
from web import QuietHandler, serving

from kcv.errors import DataError, ImageError, KcvError, OutputError, UsageError
from kcv.stores import answers, client, listing, reading, writing
from kcv.stores.ahead import FetchedAhead
from kcv.stores.listing import StoredObject, below, find_object, matching
from kcv.stores.location import Location
from kcv.stores.reading import ObjectFile, read
from kcv.stores.writing import require_writable, upload

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def place(s3: S3) -> Location:
    """An object of 10,240 bytes."""
    bucket = s3.bucket()
    s3.put(bucket, "a/one.bin", CONTENT)
    return Location(bucket, "a/one.bin")


def found(place: Location) -> StoredObject:
    one = find_object(place)
    assert one is not None
    return one


def faults(*kinds: str | None) -> Callable[[str], str | None]:
    """Returns these faults for the first requests, in order, and none for those that follow."""
    left = list(kinds)
    return lambda request: left.pop(0) if left else None


def test_an_answer_that_breaks_off_is_continued_where_it_broke(s3: S3, place: Location) -> None:
    one = found(place)
    s3.asked.clear()
    s3.fault = faults("500", "cut", "503", "cut")
    assert read(one) == CONTENT
    ranges = [request.rpartition("bytes=")[2] for request in s3.asked]
    assert ranges == ["0-10239", "0-10239", "5120-10239", "5120-10239", "7680-10239"]
    s3.fault = faults("cut")
    assert read(one, 100, 300) == CONTENT[100:300]


def test_tries_have_an_end_and_the_error_is_one_line(s3: S3, place: Location) -> None:
    one = found(place)
    s3.asked.clear()
    s3.fault = lambda request: "500"
    with pytest.raises(DataError) as caught:
        read(one)
    assert str(caught.value) == f"{place}: cannot be read after 6 tries (InternalError: as the test wants it)."
    assert len(s3.asked) == client.TRIES
    with pytest.raises(DataError, match=r"cannot be listed after 6 tries \(InternalError"):
        list(below(place.folder))
    s3.fault = lambda request: "cut"
    with pytest.raises(DataError, match=r"cannot be read after 6 tries \(cut off"):
        read(one)


def test_a_slow_answer_is_asked_for_again(
    s3: S3, place: Location, monkeypatch: pytest.MonkeyPatch, reconnect: Callable[[], None]
) -> None:
    one = found(place)
    monkeypatch.setattr(client, "SILENCE", 0.2)
    reconnect()
    s3.fault = faults("slow:0.6", None)
    s3.asked.clear()
    assert read(one) == CONTENT
    assert len(s3.asked) == 2
    monkeypatch.setattr(reading, "_SECONDS", -1.0)  # an answer whose bytes come one by one
    monkeypatch.setattr(reading, "_CHUNK", 1024)
    with pytest.raises(DataError, match=r"cannot be read after 6 tries \(too slow\)"):
        read(one)


def test_a_listing_has_pages_and_a_bound(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    names = [f"{number:02}.png" for number in range(7)]
    for name in (*names, "deeper/x.png", "a//b.png", "a/../c.png", "a/./d.png", "marker/", "z\u202e.png", "ä b+c%.png"):
        s3.put(bucket, f"p/{name}", b"x")
    monkeypatch.setattr(listing, "PAGE", 3)
    s3.fault = faults("500", "cut", None, "cut")
    prefix = Location(bucket, "p/")
    keys = [one.place.key.removeprefix("p/") for one in below(prefix)]
    assert keys == [*names, "deeper/x.png", "ä b+c%.png"]
    assert sum("list-type=2" in request for request in s3.asked) > 5
    assert [one.place.key for one in below(prefix, recursive=False)][-1] == "p/ä b+c%.png"
    assert [one.place.key for one in matching(Location(bucket, "p/**/?.png"))] == ["p/deeper/x.png"]
    assert len(list(matching(Location(bucket, "p/0*.png")))) == 7
    monkeypatch.setattr(listing, "MOST_OBJECTS", 5)
    with pytest.raises(DataError, match="holds more than 5 objects"):
        list(below(prefix))
    monkeypatch.setattr(listing, "MOST_OBJECTS", 50)
    monkeypatch.setattr(listing, "MOST_SECONDS", -1.0)
    with pytest.raises(DataError, match="cannot be listed within"):
        list(below(prefix))


def test_an_answer_that_is_too_long_is_not_read(s3: S3, place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="an answer of more than 100 bytes"):
        list(below(place.folder))


def test_what_has_changed_since_it_was_listed_is_refused(s3: S3, place: Location) -> None:
    one = found(place)
    s3.put(place.bucket, place.key, CONTENT[::-1])
    with pytest.raises(ImageError, match="has changed since it was listed"):
        read(one, error=ImageError)
    s3.put(place.bucket, place.key, CONTENT[:50])
    unknown = replace(one, etag="")  # a store that names no versions
    with pytest.raises(DataError, match="has changed since it was listed"):
        read(unknown)
    s3.delete(place.bucket, place.key)
    with pytest.raises(DataError, match="there is no such object"):
        read(one)
    assert find_object(place) is None


def test_only_what_is_wrong_with_one_object_counts_as_a_bad_image(s3: S3, place: Location) -> None:
    one = found(place)
    s3.fault = lambda request: "403"
    with pytest.raises(ImageError, match="these credentials have no right to it"):
        read(one, error=ImageError)
    s3.fault = lambda request: "500"
    with pytest.raises(DataError):
        read(one, error=ImageError)


def no_reading(request: str) -> str | None:
    """The fault of credentials that may list and write, but not read."""
    return "403" if request.startswith("HEAD") or (request.startswith("GET") and "list-type" not in request) else None


def test_an_object_that_may_be_listed_but_not_read_is_not_missing(s3: S3, place: Location) -> None:
    s3.put(place.bucket, "a/one.bin.bak", b"x")
    s3.fault = no_reading
    with pytest.raises(DataError, match=r"/a/one\.bin: may not be read: these credentials have no right to it \(403\)"):
        find_object(place)
    assert find_object(replace(place, key="a/one.bi")) is None
    # Where nothing may be listed, a store says the same of what is not there.
    s3.fault = lambda request: "403"
    assert find_object(place) is None
    s3.fault = lambda request: "403" if request.startswith("HEAD") else "500"
    with pytest.raises(DataError, match="cannot be listed after 6 tries"):
        find_object(place)


def test_asking_for_objects_keeps_the_connection(
    s3: S3, monkeypatch: pytest.MonkeyPatch, reconnect: Callable[[], None]
) -> None:
    connections: list[int] = []

    class Lasting(QuietHandler):  # moto's server closes each connection itself
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(1)

        def do_HEAD(self) -> None:
            self.send_response(404 if self.path.endswith("odd") else 200)
            self.send_header("Content-Length", "10240")  # of a body that an answer to HEAD does not have
            self.end_headers()

    with serving(Lasting) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        reconnect()
        sizes = [one and one.size for one in map(find_object, [Location("b-b", "even"), Location("b-b", "odd")] * 10)]
        client.client().calls.close()
    assert sizes == [10240, None] * 10
    assert len(connections) == 1


def test_an_object_reads_like_a_file(s3: S3, place: Location) -> None:
    file = ObjectFile(found(place))
    s3.asked.clear()
    assert file.seek(0, os.SEEK_END) == len(CONTENT)
    file.seek(-10, os.SEEK_CUR)
    assert (file.read(4), file.tell(), file.read()) == (CONTENT[-10:-6], len(CONTENT) - 6, CONTENT[-6:])
    file.seek(7)
    buffer = bytearray(5)
    assert file.readinto(buffer) == 5
    assert bytes(buffer) == CONTENT[7:12]
    assert file.read(0) == b""
    assert file.readall() == CONTENT[12:]
    assert file.read(1) == b""
    assert len(s3.asked) == 2  # of what lies close together, only the first read asks


def test_what_is_read_in_order_is_fetched_ahead_once(s3: S3) -> None:
    asked: list[int] = []

    def content(number: int) -> bytes:
        asked.append(number)
        if number == 3:
            raise ImageError("three")
        return bytes([number])

    fetched = FetchedAhead(content, [1] * 100)
    for number in range(100):
        if number == 3:
            with pytest.raises(ImageError, match="three"):
                fetched[number]
        else:
            assert fetched[number] == bytes([number])
    assert sorted(asked) == list(range(100))
    assert fetched[7] == b"\x07"
    large = FetchedAhead(content, [2**26] * 100)
    assert large[0] == b"\x00"
    assert sorted(asked[101:]) == [0]  # held at a time: no more bytes than the bound, beside the first


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is sent in three parts."""
    monkeypatch.setattr(writing, "PART_BYTES", 5 * 2**20)
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(2**20) * 11)
    return file


def test_parts_are_sent_until_they_are_there_and_the_object_appears_at_the_end(
    s3: S3, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Location(s3.bucket(), "out.bin")
    s3.put(place.bucket, place.key, b"before")
    seen: list[bytes] = []
    kinds = faults(None, "500", "lost", None, "503", None, None, "lost", "gone")

    def fault(request: str) -> str | None:
        if "partNumber" in request:
            seen.append(s3.get(place.bucket, place.key))
        return kinds(request)

    s3.fault = fault
    upload(large, place)
    assert set(seen) == {b"before"}
    assert s3.get(place.bucket, place.key) == large.read_bytes()
    assert s3.uploads(place.bucket) == 0
    # The answer to the last request was lost, and the upload is not known any more: the object is there.
    assert sum(request.startswith("HEAD") for request in s3.asked) == 1


def test_an_upload_whose_end_cannot_be_looked_at_has_failed(s3: S3, large: Path) -> None:
    place = Location(s3.bucket(), "out.bin")
    s3.fault = lambda request: "gone" if request.startswith("POST") and "uploadId" in request else no_reading(request)
    s3.put(place.bucket, place.key, b"before")
    with pytest.raises(OutputError, match=r"out.bin: cannot be written \(NoSuchUpload"):
        upload(large, place)


def test_an_upload_that_fails_leaves_nothing(s3: S3, large: Path, tmp_path: Path) -> None:
    place = Location(s3.bucket(), "out.bin")
    s3.fault = lambda request: "500" if "partNumber=2" in request else None
    with pytest.raises(OutputError, match=r"out.bin: cannot be written after 6 tries \(InternalError"):
        upload(large, place)
    assert (s3.keys(place.bucket), s3.uploads(place.bucket)) == ([], 0)
    s3.heal()
    require_writable(place)
    assert (s3.keys(place.bucket), s3.uploads(place.bucket)) == ([], 0)
    small = tmp_path / "small.csv"
    small.write_bytes(b"a,b\n")
    s3.fault = faults("lost", "503")
    upload(small, place)
    assert s3.get(place.bucket, place.key) == b"a,b\n"
    with pytest.raises(OutputError, match="there is no such bucket at http"):
        require_writable(Location("no-such-bucket", "x"))
    s3.fault = lambda request: "403"
    with pytest.raises(OutputError, match=r"may not be written: these credentials have no right to it"):
        require_writable(place)


WRONG = [
    ({"AWS_NO_SIGN_REQUEST": "YES"}, "it is not public, and AWS_NO_SIGN_REQUEST is set"),
    ({"AWS_PROFILE": "nobody"}, r"configuration of AWS cannot be used: The config profile \(nobody\) could not"),
    ({"AWS_ENDPOINT_URL": "nowhere"}, "configuration of AWS cannot be used: Invalid endpoint: nowhere"),
    ({"AWS_ENDPOINT_URL": "http://me:s3cr3t@127.0.0.1:9"}, r"Could not connect to the endpoint URL: \"http://127"),
    ({"AWS_ACCESS_KEY_ID": ""}, "no credentials were found, and it is not public; set AWS_PROFILE, or"),
]


@pytest.mark.parametrize(("environment", "told"), variants(WRONG, fast=1))
def test_a_configuration_that_leads_nowhere_is_told_in_one_line(
    s3: S3,
    place: Location,
    environment: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    reconnect: Callable[[], None],
) -> None:
    one = found(place)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    reconnect()
    with pytest.raises(KcvError, match=told) as caught:
        read(one)
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.full
def test_a_public_object_is_read_without_credentials(
    s3: S3, place: Location, monkeypatch: pytest.MonkeyPatch, reconnect: Callable[[], None]
) -> None:
    client.client().calls.put_object_acl(Bucket=place.bucket, Key=place.key, ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    reconnect()
    assert not client.client().signed
    assert read(found(place)) == CONTENT


def _refused(code: str, status: int = 400) -> Exception:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("ExpiredToken", "the store does not accept the credentials (ExpiredToken)"),
        ("SignatureDoesNotMatch", "the store does not accept the credentials"),
        ("PermanentRedirect", "is in another region; set AWS_REGION to it (PermanentRedirect)"),
        ("AuthorizationHeaderMalformed", "is in another region"),
        ("InvalidObjectState", "is archived; restore it first"),
        ("Odd\x1b[31m", "cannot be read (Odd\\x1b[31m: m)"),
    ],
)
def test_what_a_store_answers_is_told_in_words(s3: S3, code: str, told: str) -> None:
    def work() -> None:
        raise _refused(code)

    with pytest.raises(DataError) as caught:
        client.retried(Location("b-b", "k"), work)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://", "'' is no name of a bucket"),
        ("s3:///x", "'' is no name of a bucket"),
        ("s3://b_/!x", None),
        ("s3://bu cket/x", "'bu cket' is no name of a bucket"),
        ("s3://me:s3cr3t@bucket/x", "holds a user, a password or a query"),
        ("s3://AKIA@bucket/x", "holds a user, a password or a query"),
        ("s3://bucket/x?X-Amz-Signature=s3cr3t", "holds a user, a password or a query"),
        ("s3://bucket/a\nb", "control characters"),
        (f"s3://bucket/{'x' * 1025}", "more than 1,024 bytes"),
    ],
)
def test_a_url_that_is_none_is_refused_without_showing_secrets(url: str, told: str | None) -> None:
    if told is None:
        assert str(Location.parse(url)) == url
        return
    with pytest.raises(DataError, match=told) as caught:
        Location.parse(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.fixture
def without_botocore(monkeypatch: pytest.MonkeyPatch, reconnect: Callable[[], None]) -> Iterator[None]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.setitem(sys.modules, name, None)
    reconnect()
    yield


def test_without_the_package_one_line_says_what_to_install(without_botocore: None) -> None:
    with pytest.raises(UsageError, match=r"pip install 'kcv\[s3\]'"):
        list(below(Location("bucket", "p/")))
