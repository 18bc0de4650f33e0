"""Reloading: a new file is checked, warmed up and swapped in; one that does not fit is refused, and the old answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from onnx_by_hand import network
from served_images import photo, with_texts
from serving import PATIENCE, Running, serving

PHOTO = photo(2)
NEW = with_texts(network(), temperature="1.0", data_name="others")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model file that a test may replace."""
    path = tmp_path / "net.onnx"
    path.write_bytes(network())
    return path


def replace(path: Path, content: bytes) -> None:
    """Puts a file in the place of another at once, as kcv's own writers do."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)


def version(running: Running) -> str:
    return str(running.post("/predict", PHOTO).json["version"])


def reload(running: Running) -> None:
    """Does what SIGHUP does, and waits for it."""
    done = threading.Event()

    def start() -> None:
        before = set(running.server._tasks)
        running.server._reload()
        for task in running.server._tasks - before:
            task.add_done_callback(lambda _: done.set())

    running.server.loop.call_soon_threadsafe(start)
    assert done.wait(PATIENCE)


def test_a_changed_file_answers_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch, soon: Callable[[Callable[[], bool]], None]
) -> None:
    monkeypatch.setattr("kcv.serving.server._LOOK_SECONDS", 0.02)
    with serving(path) as running:
        old = version(running)
        replace(path, NEW)
        soon(lambda: version(running) != old)
        assert running.get("/v2/models/net").json["versions"] != [old]


def test_sighup_reloads_and_requests_under_load_see_no_error(path: Path) -> None:
    with serving(path) as running, ThreadPoolExecutor(6) as pool:
        old = version(running)
        stop = threading.Event()

        def ask() -> list[tuple[int, str]]:
            found = []
            while not stop.is_set():
                answered = running.post("/predict", PHOTO)
                found.append((answered.code, answered.json.get("version", "")))
            return found

        asking = [pool.submit(ask) for _ in range(4)]
        for content in (NEW, network(), NEW):
            replace(path, content)
            reload(running)
        stop.set()
        answers = [answer for one in asking for answer in one.result()]
        assert {code for code, _ in answers} == {200}
        assert {digest for _, digest in answers} <= {old, version(running)}
        assert version(running) != old


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (with_texts(network(), class_names='["a", "b", "d"]'), "has other classes than the model that is served"),
        (with_texts(network(), class_names='["b", "a", "c"]'), "has other classes"),
        (network()[:-100], "cannot be opened as an ONNX model"),
        (b"", "cannot be opened as an ONNX model"),
        (None, "no such model file"),
    ],
    ids=["another class", "another order", "cut", "empty", "gone"],
)
def test_a_file_that_does_not_fit_is_refused_and_the_old_model_answers_on(
    path: Path, content: bytes | None, words: str, told: Callable[[], str]
) -> None:
    with serving(path) as running:
        old = version(running)
        if content is None:
            path.unlink()
        else:
            replace(path, content)
        reload(running)
        assert version(running) == old
        assert f"net: not reloaded, version {old} answers on" in told()
        assert words in told()
        replace(path, NEW)
        reload(running)
        assert version(running) != old


def test_the_kind_of_file_stays(path: Path, tmp_path: Path, told: Callable[[], str]) -> None:
    with serving(path, queue_images=4) as running:
        served = running.service.models["net"]
        assert served.version.is_concurrent
        path.unlink()
        path.symlink_to(tmp_path)  # a folder where a file was
        reload(running)
        assert "not reloaded" in told()


def test_a_moved_alias_answers_after_sighup(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soon: Callable[[Callable[[], bool]], None]
) -> None:
    new = tmp_path / "new.onnx"
    new.write_bytes(NEW)
    found = {"models:/net@champion": path}
    monkeypatch.setattr("kcv.serving.place.model_file", lambda named, every: found[named])
    monkeypatch.setattr("kcv.serving.server._LOOK_SECONDS", 0.02)
    with serving("models:/net@champion") as running:
        old = version(running)
        found["models:/net@champion"] = new
        assert version(running) == old
        reload(running)
        assert version(running) != old
