"""`POST /feedback`: images are filed under their class, as a data set that kcv reads; off unless it is asked for."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx_by_hand import network
from served_images import photo, with_texts
from serving import Running, serving

import kcv
from kcv import images
from kcv.config import Config
from kcv.errors import OutputError, UsageError
from kcv.serving import feedback as feedback_module
from kcv.serving.class_folders import check_names
from kcv.serving.feedback import Feedback

TOKEN = "0123456789abcdef-token"
PHOTO = photo(1)
NAME = hashlib.sha256(PHOTO).hexdigest() + ".png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "filed"


@pytest.fixture
def asking(network_file: Path, folder: Path) -> Iterator[Running]:
    """A server that takes feedback."""
    with serving(network_file, feedback=folder) as running:
        yield running


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_it_is_off_by_default(running: Running) -> None:
    assert running.post("/feedback?class_name=a", PHOTO).code == 404
    assert running.get("/models").json["feedback"] is False
    assert "/feedback" not in running.get("/openapi.json").json["paths"]


def test_an_image_is_filed_as_it_was_sent_once(asking: Running, folder: Path) -> None:
    for _ in range(2):
        answered = asking.post("/feedback?class_name=b", PHOTO)
        assert (answered.code, answered.json) == (200, {"model": "net", "class_name": "b"})
    assert files(folder) == {f"b/{NAME}"}
    assert (folder / "b" / NAME).read_bytes() == PHOTO
    assert asking.get("/models").json["feedback"] is True
    assert asking.get("/openapi.json").json["paths"]["/feedback"]["post"]["operationId"] == "feedback"


def test_its_name_ends_like_its_format(asking: Running, folder: Path) -> None:
    for form in images.FORMATS:
        assert asking.post("/feedback?class_name=a", photo(2, format=form), Content_Type="image/x").code == 200
    assert sorted(path.suffix for path in (folder / "a").iterdir()) == [
        ".bmp", ".gif", ".jpg", ".png", ".ppm", ".tif", ".webp"
    ]  # fmt: skip
    for path in (folder / "a").iterdir():
        assert path.read_bytes() == photo(2, format=images.examine(path).format or "")


def test_the_last_word_counts(asking: Running, folder: Path) -> None:
    for name in "abcb":
        assert asking.post(f"/feedback?class_name={name}", PHOTO).code == 200
        assert files(folder) == {f"{name}/{NAME}"}
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_what_an_operator_moves_or_removes_is_seen(asking: Running, folder: Path) -> None:
    asking.post("/feedback?class_name=a", PHOTO)
    (folder / "c").mkdir()
    (folder / "a" / NAME).rename(folder / "c" / NAME)
    asking.post("/feedback?class_name=b", PHOTO)
    assert files(folder) == {f"b/{NAME}"}
    (folder / "b" / NAME).unlink()
    asking.post("/feedback?class_name=b", PHOTO)
    assert files(folder) == {f"b/{NAME}"}


@pytest.mark.parametrize(
    ("query", "body", "code", "words"),
    [
        ("", PHOTO, 400, "class_name is missing"),
        ("?class_name=d", PHOTO, 400, "net has no class 'd'"),
        ("?class_name=../a", PHOTO, 400, "no class '../a'"),
        ("?class_name=a%2F..%2F..", PHOTO, 400, "no class"),
        ("?class_name=a%00", PHOTO, 400, "no class"),
        ("?class_name=", PHOTO, 400, "no class ''"),
        ("?class_name=a&folder=x", PHOTO, 400, "unknown parameter 'folder'"),
        ("?class_name=a&model=x", PHOTO, 404, "no model 'x'"),
        ("?class_name=a", b"no image, but long enough", 415, "not an image"),
        ("?class_name=a", PHOTO[:100], 422, "cannot be read"),
        ("?class_name=a", b"", 422, "empty"),
        ("?class_name=a", photo(1, (60, 60), "BMP"), 413, "larger than the allowed"),
        ("?class_name=a", photo(1, (60, 60)), 422, "3,600"),
    ],
)
def test_what_cannot_be_filed_is_refused(
    network_file: Path, folder: Path, query: str, body: bytes, code: int, words: str
) -> None:
    with serving(network_file, feedback=folder, max_bytes=9000, max_pixels=3000) as running:
        answered = running.post(f"/feedback{query}", body)
    if words == "3,600":
        words = "60x60 pixels are more than the allowed 3,000"
    assert (answered.code, words in answered.json["error"]) == (code, True), answered.json
    assert files(folder) == set()


def test_only_images_are_taken(asking: Running) -> None:
    assert asking.post("/feedback?class_name=a", PHOTO, Content_Type="text/html").code == 415
    assert asking.get("/feedback").code == 405
    assert asking.post("/feedback?class_name=a", PHOTO, Origin="https://evil.example").code == 403


def test_it_needs_the_token(network_file: Path, folder: Path) -> None:
    with serving(network_file, feedback=folder, token=TOKEN) as running:
        assert running.post("/feedback?class_name=a", PHOTO).code == 401
        assert files(folder) == set()
        assert running.post("/feedback?class_name=a", PHOTO, Authorization=f"Bearer {TOKEN}").code == 200
    assert files(folder) == {f"a/{NAME}"}


def test_several_models_have_a_folder_each(network_file: Path, tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(with_texts(network(), class_names='["x", "y", "z"]'))
    with serving(network_file, other, feedback=folder) as running:
        assert running.post("/feedback?class_name=a", PHOTO).code == 200
        assert running.post("/feedback?class_name=x&model=other", PHOTO).code == 200
        assert running.post("/feedback?class_name=a&model=other", PHOTO).code == 400
    assert files(folder) == {f"net/a/{NAME}", f"other/x/{NAME}"}


def test_the_room_is_bounded_also_after_a_restart(network_file: Path, folder: Path) -> None:
    room = 3 * 4096  # three small images
    for _ in range(2):
        with serving(network_file, feedback=folder, feedback_bytes=room) as running:
            codes = [running.post("/feedback?class_name=a", photo(seed)).code for seed in range(5)]
            assert codes == [200, 200, 200, 507, 507]
            assert running.post("/feedback?class_name=b", photo(0)).code == 200  # moved: no more room is needed
            assert running.post("/feedback?class_name=a", photo(0)).code == 200
            assert "no room" in running.post("/feedback?class_name=a", photo(9)).json["error"]
    assert len(files(folder)) == 3


def test_a_folder_that_was_tidied_has_room_again(
    network_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(network_file, feedback=folder, feedback_bytes=4096) as running:
        assert [running.post("/feedback?class_name=a", photo(seed)).code for seed in range(2)] == [200, 507]
        for path in (folder / "a").iterdir():
            path.unlink()
        assert running.post("/feedback?class_name=a", photo(1)).code == 507  # looked at not long ago
        monkeypatch.setattr(feedback_module, "_COUNT_SECONDS", -1.0)
        assert running.post("/feedback?class_name=a", photo(1)).code == 200


def test_a_full_disk_is_told_and_leaves_nothing(
    asking: Running, folder: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        answered = asking.post("/feedback?class_name=a", PHOTO)
    assert (answered.code, answered.json["error"]) == (507, "the image cannot be filed.")
    assert "feedback cannot be written: No space left on device" in told()
    assert NAME not in told() and str(folder) not in told()
    assert files(folder) == set()
    assert asking.post("/feedback?class_name=a", PHOTO).code == 200


def test_too_many_at_once_are_asked_to_wait(asking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_module, "_MOST_WAITING", 0)
    answered = asking.post("/feedback?class_name=a", PHOTO)
    assert (answered.code, answered.headers["retry-after"]) == (503, "1")


def test_a_log_holds_nothing_of_it(network_file: Path, folder: Path, told: Callable[[], str]) -> None:
    logging.getLogger("kcv").setLevel(logging.INFO)
    with serving(network_file, feedback=folder, log_requests=True) as running:
        running.post("/feedback?class_name=secret", PHOTO)
        running.post("/feedback?class_name=b", PHOTO)
    assert f"200 {len(PHOTO)} bytes" in told()
    assert "secret" not in told() and NAME[:64] not in told() and "class_name" not in told()


def test_a_folder_that_cannot_be_written_is_told_at_the_start(network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"--feedback: cannot write .*file/x: Not a directory"):
        Feedback(tmp_path / "file" / "x", {"net": ("a", "b")}, most_bytes=1, max_pixels=1)


@pytest.mark.parametrize(
    "odd", ["a/b", "a\\b", "..", ".hidden", "c:", "Thumbs.db", " a", "a.", "x" * 256, "漢" * 100, "mlruns", "test"]
)
def test_names_that_cannot_be_class_folders_are_refused(odd: str) -> None:
    with pytest.raises(UsageError, match="--feedback") as caught:
        check_names(["cat", "dog", odd])
    assert "\n" not in str(caught.value)


def test_names_that_some_systems_take_for_one_are_refused() -> None:
    for one, other in (("Cat", "cat"), ("\u00fc", "u\u0308")):
        with pytest.raises(UsageError, match="would be one folder"):
            check_names([one, "dog", other])


@pytest.mark.parametrize(
    "names",
    [("cat", "dog"), ("train", "car", "bus"), ("0", "1"), ("straße", "漢字", "a b"), ("x" * 255, "what?", "-1")],
)
def test_other_names_are_folders_that_kcv_reads_back(names: tuple[str, ...], tmp_path: Path) -> None:
    check_names(names)
    made = Feedback(tmp_path / "filed", {"net": names}, most_bytes=10**9, max_pixels=10**6)
    for seed, name in enumerate(names):
        made._file(made._folders["net"], photo(seed), name)
    made.close()
    found = kcv.check(str(tmp_path / "filed"))
    assert set(found.class_names) == set(names)


def test_what_is_filed_is_a_data_set(asking: Running, folder: Path, tmp_path: Path) -> None:
    for seed in range(24):
        asking.post(f"/feedback?class_name={'ab'[seed % 2]}", photo(seed, (40 + seed, 40), ["PNG", "JPEG"][seed % 2]))
    found = kcv.check(str(folder))
    assert (found.passed, found.class_names, sum(found.counts.values())) == (True, ("a", "b"), 24)
    config = Config.load(
        data=str(folder), model="custom_cnn", epochs=1, batch_size=8, precision="float32", device="cpu",
        tracking="none", output_dir=str(tmp_path / "run"), **{"train.plots": False, "model.width": 0.25},
    )  # fmt: skip
    run = kcv.train(config)
    assert run.model_path.is_file()
