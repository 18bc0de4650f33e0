"""Images behind URLs: fetched in bounds, or one line. The server is on this machine."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from counting import Brightness
from PIL import Image
from web import QuietHandler, serving

from kcv import predict
from kcv.common.download import fetch
from kcv.errors import DataError


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (255,) * 3).save(stream, "PNG")
    return stream.getvalue()


class Handler(QuietHandler):
    def do_GET(self) -> None:
        if self.path == "/missing.png":
            self.send_error(404)
            return
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(png()) + (10 if self.path == "/cut.png" else 0)))
        self.end_headers()
        if self.path == "/slow.png":
            for byte in png():
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:
                    return
                time.sleep(0.05)
            return
        self.wfile.write(png())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Handler) as address:
        yield address


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("resume", [False, True])
def test_urls_stand_among_files_and_what_cannot_be_had_is_a_row(server: str, tmp_path: Path, resume: bool) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    named = [f"{server}/good.png?size=1", str(tmp_path / "black.png"), f"{server}/missing.png", "file:///etc/passwd"]
    rows = list(predict(named, Brightness(), output=tmp_path / "rows.csv", resume=resume))
    assert [row["path"] for row in rows] == named
    assert [row["label"] for row in rows] == ["bright", "dark", None, None]
    assert "cannot be downloaded (Not Found)" in rows[2]["error"]
    assert "only URLs of http and https are read" in rows[3]["error"]


@pytest.mark.parametrize(
    ("url", "bounds", "words"),
    [
        ("/cut.png", {}, "it broke off, 10 bytes are missing"),
        ("/good.png", {"most": 20}, "larger than 20 bytes"),
        ("/slow.png", {"seconds": 0.3}, "longer than 0.3 seconds"),
        ("/to?file:///etc/passwd", {}, "."),
        ("/to?ftp://127.0.0.1/x", {}, "it leads to ftp://127.0.0.1/x, which is not read"),
        ("/to?/to?/to?/good.png", {}, None),
        ("/k\xe4se \u732b.png", {}, None),
    ],
)
def test_fetching_is_bounded(server: str, url: str, bounds: dict[str, float], words: str | None) -> None:
    wanted = {"most": 10**6, "seconds": 20.0, **bounds}
    if words is None:
        assert fetch(server + url, **wanted) == png()  # type: ignore[arg-type]
        return
    with pytest.raises(DataError, match=words):
        fetch(server + url, **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/y.png",
        "http://",
        "https://[::1/x",
        "http://name:secret@127.0.0.1/x",
        "://x",
        "http://\xe4.invalid/",
        "http://127.0.0.1:1/x",
    ],
)
def test_other_urls_are_one_line_without_secrets(url: str) -> None:
    with pytest.raises(DataError) as caught:
        fetch(url, most=10, seconds=5)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
