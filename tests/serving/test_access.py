"""Who may ask: tokens, addresses, and pages of other sites."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_images import photo
from serving import Running, serving

from kcv.cli import main
from kcv.errors import UsageError
from kcv.serving.server import listen
from kcv.serving.settings import find_token
from kcv.tasks.serve import serve

TOKEN = "0123456789abcdef-token"
PHOTO = photo(1)


@pytest.fixture(scope="module")
def guarded(network_file: Path) -> Iterator[Running]:
    """A server that wants a token."""
    with serving(network_file, token=TOKEN) as running:
        yield running


@pytest.mark.parametrize("given", [None, "", "Bearer ", f"Bearer {TOKEN}x", TOKEN, f"bearer {TOKEN}", "Bearer \xfc"])
def test_without_the_token_nobody_may_ask(guarded: Running, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    answered = guarded.post("/predict", PHOTO, **headers)
    assert (answered.code, answered.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get("/v2/models/net", **headers).code == 401
    assert guarded.get("/openapi.json", **headers).code == 401


def test_with_the_token_everything_answers(guarded: Running) -> None:
    assert guarded.post("/predict", PHOTO, Authorization=f"Bearer {TOKEN}").code == 200
    assert guarded.get("/openapi.json", Authorization=f"Bearer {TOKEN}").json["security"] == [{"token": []}]


def test_the_machinery_around_a_server_needs_no_token(guarded: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/ping"):
        assert guarded.get(path).code == 200
    assert guarded.get("/metrics").code in (200, 501)


@pytest.mark.parametrize("path", ["/v2/health/live/../../models/net", "/ping/../predict", "//ping", "/ping/", "/PING"])
def test_no_other_path_goes_without_it(guarded: Running, path: str) -> None:
    assert guarded.get(path).code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost@evil"])
def test_a_name_that_only_points_here_is_refused(running: Running, host: str) -> None:
    answer = running.raw(f"GET /ping HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:80"])
def test_the_names_of_this_machine_are_taken(running: Running, host: str) -> None:
    answer = running.raw(f"GET /ping HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_page_of_another_site_may_not_use_the_server(running: Running) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
        answered = running.post("/predict", PHOTO, **headers)
        assert (answered.code, "other sites" in answered.json["error"]) == (403, True)
        assert "access-control-allow-origin" not in answered.headers
    own = f"http://127.0.0.1:{running.port}"
    for origin in ("http://[", "http://[x]", f"{own}]", ""):
        assert running.post("/predict", PHOTO, Origin=origin).code == 403
    assert running.post("/predict", PHOTO, Origin=own, Sec_Fetch_Site="same-origin").code == 200
    assert running.ask("OPTIONS", "/predict", Origin="https://evil.example").code == 403


def test_every_answer_carries_the_strict_policy(running: Running) -> None:
    for answered in (running.get("/ping"), running.get("/none"), running.post("/predict", b""), running.get("/v2")):
        assert answered.headers["content-security-policy"].startswith("default-src 'none'")
        assert answered.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answered.headers


def test_a_log_holds_nothing_of_a_request(
    network_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("kcv", "uvicorn"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    logging.getLogger("kcv").setLevel(logging.INFO)
    with serving(network_file, log_requests=True) as running:
        running.post("/predict?secret=1", PHOTO, Cookie="secret")
        running.get("/secret", User_Agent="secret")
        running.raw(b"secret\r\n\r\n")
        running.post("/v2/models/secret/infer", b"secret")
    assert "secret" not in caplog.text
    assert "400 0 bytes" in caplog.text


@pytest.mark.parametrize("host", ["0.0..0.0", "x" * 64, "\udc80", "\x1b[2J..b"])
def test_what_is_no_name_of_a_host_is_one_line(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"^--host=\S+: is no name of a host$") as caught:
        listen(host, 0)
    assert "\x1b" not in str(caught.value)
    assert main(["serve", "none.onnx", f"--host={host}", "--open"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("\n") == 1


def test_another_address_needs_a_token_or_the_word_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UsageError, match=f"--host={host} lets others connect: set a token"):
            find_token(None, None, host, open_to_all=False)
        assert find_token(None, None, host, open_to_all=True) is None
        assert find_token(TOKEN, None, host, open_to_all=False) == TOKEN
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "::1"):
        assert find_token(None, None, host, open_to_all=False) is None
    with pytest.raises(UsageError, match="lets others connect"):
        serve(tmp_path / "none.onnx", host="0.0.0.0", port=0)
    monkeypatch.setenv("KCV_SERVE_TOKEN", TOKEN)
    assert find_token(None, None, "0.0.0.0", open_to_all=False) == TOKEN
    monkeypatch.setenv("KCV_SERVE_TOKEN", "")
    with pytest.raises(UsageError, match="lets others connect"):
        find_token(None, None, "0.0.0.0", open_to_all=False)


def test_a_token_comes_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    assert find_token(None, path, "0.0.0.0", open_to_all=False) == TOKEN
    path.chmod(0o644)
    with pytest.raises(UsageError, match="every user of this machine can read it"):
        find_token(None, path, "0.0.0.0", open_to_all=False)
    with pytest.raises(UsageError, match="no such file"):
        find_token(None, tmp_path / "none", "0.0.0.0", open_to_all=False)
    with pytest.raises(UsageError, match="give one of them"):
        find_token(TOKEN, path, "0.0.0.0", open_to_all=False)


@pytest.mark.parametrize(
    "token", ["", "short", "with spaces in the middle", "not\x00plain-0123456789", "ümlaut-0123456789"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="--token: a token has at least 16 letters"):
        find_token(token, None, "127.0.0.1", open_to_all=False)
