"""A download is whole and checked, or it leaves nothing behind. The server is on this machine."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from web import QuietHandler, serving

from kcv.common.download import cache_dir, download, has_checksum, lasting, writable
from kcv.errors import DataError, OutputError

CONTENT = bytes(range(256)) * 10_000
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(QuietHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/endless":
            self.end_headers()
            try:
                while True:
                    self.wfile.write(CONTENT)
            except OSError:
                return
        body = CONTENT[:1000] if self.path == "/cut" else CONTENT
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Handler) as address:
        yield address


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_a_checksum_may_be_an_md5_where_there_is_no_better(server: str, tmp_path: Path) -> None:
    good, bad = (f"md5:{hashlib.md5(content).hexdigest()}" for content in (CONTENT, b""))
    download(f"{server}/good", tmp_path / "x.bin", checksum=good, size=len(CONTENT))
    assert has_checksum(tmp_path / "x.bin", good) and not has_checksum(tmp_path / "x.bin", bad)


class CountingBar:
    def __init__(self) -> None:
        self.opened: list[tuple[int, str, str]] = []
        self.done = 0

    @contextmanager
    def __call__(self, total: int, label: str, unit: str) -> Iterator[CountingBar]:
        self.opened.append((total, label, unit))
        yield self

    def advance(self, n: int = 1) -> None:
        self.done += n


def test_a_whole_file_arrives_and_progress_counts_its_bytes(server: str, tmp_path: Path) -> None:
    bar = CountingBar()
    path = tmp_path / "new" / "folder" / "x.bin"
    download(f"{server}/good", path, checksum=CHECKSUM, size=len(CONTENT), open_bar=bar)
    assert path.read_bytes() == CONTENT
    assert has_checksum(path, CHECKSUM)
    assert bar.opened == [(len(CONTENT), "downloading x.bin", "bytes")]
    assert bar.done == len(CONTENT)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("cut", "1,000 of 2,560,000 bytes"),
        ("endless", "not the expected file"),
        ("missing", "cannot be downloaded (Not Found)"),
    ],
)
def test_anything_else_leaves_what_was_there(server: str, tmp_path: Path, page: str, words: str) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(DataError) as caught:
        download(f"{server}/{page}", path, checksum=CHECKSUM, size=len(CONTENT))
    assert words in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["x.bin"]


def test_a_wrong_checksum_keeps_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"instead of 000000.*nothing was kept"):
        download(f"{server}/good", tmp_path / "x.bin", checksum="sha256:" + "0" * 64, size=len(CONTENT))
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:9/x cannot be downloaded \(.+\)\.$"):
        download("http://127.0.0.1:9/x", tmp_path / "x.bin", checksum=CHECKSUM, size=1)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_cache_is_not_blamed_on_the_network(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        download(f"{server}/good", tmp_path / "file" / "x.bin", checksum=CHECKSUM, size=len(CONTENT))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCV_CACHE_DIR", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/a")
    monkeypatch.delenv("KCV_CACHE_DIR")
    assert cache_dir() == Path("/b/kcv")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "kcv"


def test_a_cache_that_cannot_be_written_to_is_replaced_for_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert writable(tmp_path / "new" / "cache") == tmp_path / "new" / "cache"
    assert list((tmp_path / "new" / "cache").iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert caplog.text == ""
    other = writable(tmp_path / "file" / "cache")
    assert other.parent == tmp_path / "temporary"
    assert "downloads are kept for this run alone" in caplog.text
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="nor elsewhere"):
        writable(tmp_path / "file" / "cache")


def test_files_that_must_last_have_no_substitute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))
    assert lasting("outputs") == tmp_path / "cache" / "outputs"
    assert list((tmp_path / "cache" / "outputs").iterdir()) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"file/outputs: Not a directory; KCV_CACHE_DIR names another folder$"):
        lasting("outputs")
