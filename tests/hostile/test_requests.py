"""Hostile requests: each gets its code, nothing outside is touched, and the server answers the next one as before."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx_by_hand import network
from PIL import Image
from served_images import photo
from serving import Running, code_of, received, serving

PHOTO = photo(1)
B64 = base64.b64encode(PHOTO).decode()
INFER, INVOCATIONS = "/v2/models/net/infer", "/invocations"
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
MULTIPART = b"Content-Type: multipart/form-data; boundary=B\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server in a folder with a canary, which no request may read, change or remove."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "net.onnx").write_bytes(network())
    (folder / "canary.txt").write_text("alive")
    with serving(folder / "net.onnx", max_bytes=4_000_000, body_seconds=5.0, header_seconds=5.0) as server:
        yield server
    assert (folder / "canary.txt").read_text() == "alive"
    assert sorted(os.listdir(folder)) == ["canary.txt", "net.onnx"]


@pytest.fixture(autouse=True)
def _answers_on(running: Running) -> Iterator[None]:
    """Expects the same answer after each request as before it, and no bytes left behind."""
    before = running.post("/predict", PHOTO)
    yield
    after = running.post("/predict", PHOTO)
    assert (before.code, after.code) == (200, 200)
    assert after.json == before.json


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, packed: bytes, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def gif_of_size(width: int, height: int) -> bytes:
    small = io.BytesIO()
    Image.new("P", (1, 1)).save(small, "GIF")
    content = bytearray(small.getvalue())
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def tiff_in_a_loop() -> bytes:
    """A TIFF whose only directory says that it is followed by itself, and has no pixels."""
    return b"II*\0" + struct.pack("<IHHHIII", 8, 1, 256, 3, 1, 1, 8)


PIXELS_8, LONG = zlib.compress(b"\0" * 200), b"a\0\0" + zlib.compress(b"a" * 10**8)
BMP = b"BM" + struct.pack("<IHHIIii", 54, 0, 0, 54, 40, -5, -(2**31)) + b"\1\0\x18\0" + b"\0" * 24
ENTITY = b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
ZEROS = zlib.compress(b"\0" * 10**7, 9)
JPEG = photo(1, format="JPEG")

IMAGES: dict[str, tuple[bytes, set[int]]] = {
    "nothing": (b"", {422}),
    "one byte": (b"\0", {415}),
    "a bomb of 2.5 billion pixels": (png(50_000, 50_000, ZEROS), {422}),
    "more pixels than allowed": (png(10_000, 10_000, ZEROS), {422}),
    "no width": (png(0, 10, ZEROS), {415, 422}),
    "fewer rows than promised": (png(100, 100, zlib.compress(b"\0" * 301)), {200, 422}),
    "damaged pixels": (png(100, 100, b"\xff" * 100), {422}),
    "a packed text of 100 MB": (png(8, 8, PIXELS_8, chunk(b"zTXt", LONG)), {200, 422}),
    "a packed profile of 100 MB": (png(8, 8, PIXELS_8, chunk(b"iCCP", LONG)), {200, 422}),
    "a GIF of 4 billion pixels": (gif_of_size(65535, 65535), {422}),
    "a TIFF in a loop": (tiff_in_a_loop(), {415, 422}),
    "a WebP that is cut": (photo(1, format="WEBP")[:40], {422}),
    "a BMP of a negative size": (BMP, {415, 422}),
    "a PPM of a huge size": (b"P6 99999999 99999999 255\n", {422}),
    "a PPM without an end": (b"P6 " + b"#" * 100_000, {415, 422}),
    "a JPEG of scans": (JPEG[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 5000 + b"\xff\xd9", {200, 422}),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary.txt) (w) file\n", {415}),
    "SVG with an entity": (ENTITY, {415}),
    "a PDF": (b"%PDF-1.7\n" + b"0 " * 100, {415}),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'rm canary.txt'\ntR.", {415}),
    "an archive after an image": (PHOTO + b"PK\3\4" + b"\0" * 100, {200}),
    "a page that is a GIF as well": (b"GIF89a/*<script>*/=1;alert(1)//" + b"\0" * 99, {422}),
    "a script": (b"#!/bin/sh\nrm canary.txt\n", {415}),
    "Avro's magic": (b"Obj\1" + b"\0" * 50, {415}),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_an_image(running: Running, name: str) -> None:
    content, codes = IMAGES[name]
    answered = running.post("/predict", content)
    assert answered.code in codes, answered.body
    if answered.code != 200:
        assert set(answered.json) == {"error"}
        assert "\n" not in answered.json["error"] and "Traceback" not in answered.json["error"]


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def infer(**changes: Any) -> bytes:
    return json_bytes({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [B64], **changes}]})


PIXELS = {"datatype": "UINT8", "shape": [1, 1, 3]}
JSON: dict[str, tuple[str, bytes]] = {
    "no JSON": (INFER, b"\xff\xfe{}"),
    "nested 100,000 deep": (INFER, b"[" * 100_000),
    "objects 100,000 deep": (INVOCATIONS, b'{"a":' * 100_000),
    "NaN": (INFER, infer(**PIXELS, data=[float("nan")] * 3)),
    "infinity": (INFER, infer(**PIXELS, data=[float("inf")] * 3)),
    "a number beyond all": (INFER, infer(**PIXELS, data=[1, 2, 3]).replace(b"[1, 2, 3]", b"[1e999, 2, 3]")),
    "a number of 10,000 digits": (INFER, infer(**PIXELS, data=[7]).replace(b"[7]", b"[" + b"7" * 10_000 + b", 2, 3]")),
    "a negative pixel": (INFER, infer(**PIXELS, data=[-1, 2, 3])),
    "a pixel of 2 ** 70": (INFER, infer(**PIXELS, data=[2**70, 2, 3])),
    "texts for pixels": (INFER, infer(**PIXELS, data=["1", "2", "3"])),
    "true for pixels": (INFER, infer(**PIXELS, data=[True] * 3)),
    "a shape of 2 ** 62": (INFER, infer(datatype="UINT8", shape=[2**31 - 1, 2**31 - 1, 3], data=[1])),
    "a shape of nothing": (INFER, infer(datatype="UINT8", shape=[0, 0, 3], data=[])),
    "a shape of 1,000 axes": (INFER, infer(datatype="UINT8", shape=[1] * 1000, data=[1])),
    "a shape of fractions": (INFER, infer(shape=[1.0])),
    "a key twice": (INFER, b'{"inputs": [], "inputs": []}'),
    "a list": (INFER, b"[]"),
    "the name of another input": (INFER, infer(name="../../canary.txt")),
    "a file in place of an image": (INVOCATIONS, json_bytes({"inputs": ["file:///etc/passwd"]})),
    "a URL in place of an image": (INVOCATIONS, json_bytes({"inputs": ["http://127.0.0.1:1/a.png"]})),
    "half of a surrogate": (INFER, infer(name="\ud800")),
    "rows of different lengths": (INVOCATIONS, json_bytes({"inputs": [[[[1, 2, 3]], [[1, 2]]]]})),
    "a million empty images": (INVOCATIONS, json_bytes({"inputs": [""] * 500_000})),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_json(running: Running, name: str) -> None:
    path, body = JSON[name]
    answered = running.ask("POST", path, body, Content_Type="application/json")
    assert answered.code in (400, 413, 415, 422), answered.body[:300]
    reason = answered.json.get("error") or answered.json["message"]
    assert "\n" not in reason and len(reason) <= 510


LENGTH = f"Content-Length: {len(PHOTO)}\r\n".encode()
RAW: dict[str, tuple[bytes, set[int]]] = {
    "no HTTP": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 100, {0, 400}),
    "HTTP/2 in plain": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0, 400, 404, 421}),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", {400}),
    "a negative length": (HEAD + b"Content-Length: -5\r\n\r\n", {400}),
    "a length in hexadecimal": (HEAD + b"Content-Length: 0x10\r\n\r\n" + b"a" * 16, {400}),
    "a length with a sign": (HEAD + b"Content-Length: +5\r\n\r\nabcde", {400}),
    "a length of 30 digits": (HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", {400, 413}),
    "a length and chunks": (
        HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\n\r\n", {400}),
    "an unknown coding": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 415, 422, 501}),
    "chunked twice": (HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", {400, 422, 501}),
    "a chunk of a wrong length": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", {0, 400}),
    "a chunk of 2 ** 70 bytes": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\nabc\r\n", {0, 400}),
    "a line feed in a header": (HEAD + b"X-A: a\nX-B: b\r\n" + LENGTH + b"\r\n" + PHOTO, {200, 400}),
    "a NUL in a header": (HEAD + b"X-A: a\0b\r\n" + LENGTH + b"\r\n" + PHOTO, {400}),
    "a space before the colon": (HEAD + b"Content-Length : 5\r\n\r\nabcde", {400}),
    "a folded header": (HEAD + b"X-A: a\r\n b\r\n" + LENGTH + b"\r\n" + PHOTO, {200, 400}),
    "two hosts": (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n" + LENGTH + b"\r\n" + PHOTO, {400}),
    "no host": (b"GET /v2 HTTP/1.1\r\n\r\n", {400, 421}),
    "HTTP/1.0 without a host": (b"GET /v2 HTTP/1.0\r\n\r\n", {421}),
    "another host in the line": (b"GET http://evil/v2 HTTP/1.1\r\nHost: evil\r\n\r\n", {400, 404, 421}),
    "an unknown method": (b"BREW /predict HTTP/1.1\r\nHost: localhost\r\n\r\n", {0, 400, 405}),
    "TRACE": (b"TRACE /predict HTTP/1.1\r\nHost: localhost\r\nCookie: a\r\n\r\n", {400, 405}),
    "CONNECT": (b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", {0, 400, 404, 405}),
    "a change to a websocket": (
        b"GET /predict HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", {400, 405}),
    "a packed body": (HEAD + b"Content-Encoding: gzip\r\n" + LENGTH + b"\r\n" + PHOTO, {415}),
    "a path of 60 kB": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {0, 400, 404, 414, 431}),
    "a path that leads out": (b"GET /v2/models/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "the same, encoded": (b"GET /v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "the same, twice": (b"GET /v2/models/%252e%252e%252fnet HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "a NUL in a path": (b"GET /v2/models/net%00.txt HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "a path that is no UTF-8": (b"GET /v2/models/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "a path with an end of line": (b"GET /v2/models/a%0d%0aSet-Cookie:%20b HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "a backslash": (b"GET /v2\\models\\net HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404}),
    "a query of 50,000 keys": (
        b"POST /predict?" + b"a&" * 25_000 + b" HTTP/1.1\r\nHost: localhost\r\n" + LENGTH + b"\r\n" + PHOTO,
        {0, 200, 400, 414, 431}),
    "a form without a boundary": (
        HEAD + b"Content-Type: multipart/form-data\r\n" + LENGTH + b"\r\n" + PHOTO, {400, 415}),
    "a boundary of 10,000 characters": (
        HEAD + b"Content-Type: multipart/form-data; boundary=" + b"B" * 10_000 + b"\r\n" + LENGTH + b"\r\n" + PHOTO,
        {400, 415}),
    "a form in a form": (HEAD + b"Content-Type: multipart/mixed; boundary=B\r\n" + LENGTH + b"\r\n" + PHOTO, {415}),
    "a length in words of the protocol": (
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nInference-Header-Content-Length: 1e9\r\n"
        b"Content-Length: 2\r\n\r\n{}", {400}),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_bytes(running: Running, name: str) -> None:
    content, codes = RAW[name]
    answer = running.raw(content)
    assert code_of(answer) in codes, answer[:300]
    assert (
        b"Traceback" not in answer and b"root:" not in answer and b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]
    )


def posted(body: bytes) -> bytes:
    return HEAD + MULTIPART + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def part(headers: bytes, content: bytes = PHOTO) -> bytes:
    return b"--B\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="a.png"'
FORMS: dict[str, tuple[bytes, set[int]]] = {
    "100,000 parts": (part(DISPOSITION, b"") * 30_000, {400, 413}),
    "no end": (part(DISPOSITION), {200, 400}),
    "no part": (b"--B--\r\n", {400}),
    "no disposition": (part(b"X-A: a"), {400}),
    "a part of headers alone": (b"--B\r\n" + b"X-A: a\r\n" * 50_000, {400}),
    "a header of 1 MB": (part(b"X-A: " + b"a" * 10**6), {200, 400}),
    "a name that leads out": (
        part(b'Content-Disposition: form-data; name="file"; filename="../../canary.txt"') + b"--B--\r\n", {200}),
    "a name with an escape": (
        part(b'Content-Disposition: form-data; name="file"; filename="\x1b]0;a\x07.png"') + b"--B--\r\n", {200, 400}),
    "a field of 1 MB": (part(b'Content-Disposition: form-data; name="file"', b"a" * 10**6) + b"--B--\r\n", {400}),
    "an unknown charset": (
        part(DISPOSITION + b"\r\nContent-Type: image/png; charset=no-such") + b"--B--\r\n", {200, 400}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_form(running: Running, name: str) -> None:
    pytest.importorskip("python_multipart", reason="needs python-multipart, of the extra serve")
    body, codes = FORMS[name]
    answer = running.raw(posted(body))
    assert code_of(answer) in codes, answer[:300]
    assert b"\x1b" not in answer


def test_requests_behind_another_are_answered_each_for_itself(running: Running) -> None:
    """What looks like a request in a body is the body; what follows the body is the next request."""
    inner = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running.connect() as connection:
        connection.sendall(HEAD + f"Content-Length: {len(inner)}\r\n\r\n".encode() + inner)
        assert code_of(received(connection)) == 415
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        found = b""
        while found.count(b"HTTP/1.1 200") < 3:
            part = connection.recv(65536)
            assert part
            found += part


def test_clients_that_go_at_every_point_leave_nothing_behind(running: Running) -> None:
    whole = HEAD + LENGTH + b"\r\n" + PHOTO
    for end in range(0, len(whole), len(whole) // 30):
        with running.connect() as connection:
            connection.sendall(whole[:end])
    for _ in range(500):
        if not running.service.budget.held:
            return
        running.get("/ping")
    raise AssertionError("bytes of clients that have gone are still counted")


def test_no_file_of_the_machine_is_served(running: Running, tmp_path: Path) -> None:
    for path in ("/canary.txt", "/net.onnx", "/etc/passwd", "/static/../canary.txt", "/.git/config", "/%2fetc/passwd"):
        assert running.get(path).code == 404
