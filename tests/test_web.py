"""The page of docs/web in a headless Chromium: what it says of an image is what `kcv predict` says."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_by_hand import INFO, SIZE, node, numbers
from PIL import Image
from served_images import photo
from web import QuietHandler, serving

from kcv import predict

if sys.platform == "win32":
    pytest.skip("needs pipes that a process inherits by number", allow_module_level=True)

from browser import Browser, chromium, find_chromium

WEB = Path(__file__).resolve().parent.parent / "docs" / "web"
PROGRAM = find_chromium()
if PROGRAM is None:
    pytest.skip("needs Chromium (or its path in KCV_CHROMIUM)", allow_module_level=True)
if not (WEB / "node_modules" / "onnxruntime-web").is_dir():
    pytest.skip("docs/web is not installed: nox -s web", allow_module_level=True)

CLASSES = ("apple", "pear", "plum", "quince", "cherry", "fig & date", "<b>medlar</b>")


def model(**texts: Any) -> bytes:
    """Returns a classifier that looks at the corners of an image, so that its resize matters."""
    info = dataclasses.replace(INFO, class_names=CLASSES, **texts)
    rng = np.random.default_rng(0)
    nodes = [
        node("Cast", ["image"], ["floats"], to=1),
        node("Transpose", ["floats"], ["first"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["first"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "kernel"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    kernel = numbers("kernel", rng.normal(scale=0.002, size=(3 * (SIZE // 4) ** 2, len(CLASSES))))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(CLASSES)])
        for name in ("logits", "probabilities")
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    graph = helper.make_graph(nodes, "g", [image], outputs, initializer=[kernel])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(made, info.to_metadata())
    return bytes(made.SerializeToString())


def sharp(size: tuple[int, int]) -> bytes:
    """Returns an image of random pixels, which a wrong resize changes most."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


IMAGES = {
    "small.png": photo(1, (SIZE, SIZE)),
    "wide.png": photo(2, (301, 200)),
    "noise.png": sharp((97, 64)),
    "tiny.png": sharp((5, 9)),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page as a user has it, with images beside it for the test."""
    for name in ("index.html", "page.css", "page.mjs", "contract.mjs", "resize.mjs"):
        shutil.copy(WEB / name, tmp_path)
    (tmp_path / "node_modules").symlink_to((WEB / "node_modules").resolve())
    for name, content in IMAGES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    class Handler(QuietHandler, SimpleHTTPRequestHandler):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, directory=str(folder), **named)

    with serving(Handler) as address:
        yield address


def choose(browser: Browser, field: str, *paths: Path) -> None:
    """Chooses files, as a person does."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    found = browser.call("DOM.querySelector", nodeId=root, selector=f"#{field}")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=found, files=[str(path) for path in paths])


def shown(browser: Browser, count: int) -> list[dict[str, Any]]:
    """Returns what the page says of the last images, in the order of their choice."""
    browser.until(f"document.querySelectorAll('#results > li[data-done]').length === {count}")
    found = browser.run("""JSON.stringify([...document.querySelectorAll('#results > li')].reverse().map(item => ({
        name: item.querySelector('.name').textContent, label: item.querySelector('.label').textContent,
        text: item.querySelector('.classes').textContent,
        best: [...item.querySelectorAll('.classes > li')].map(line =>
            [line.querySelector('.of').textContent, Number(line.dataset.confidence)])})))""")
    return list(json.loads(found))


def test_the_page_says_what_predict_says(browser: Browser, folder: Path, address: str) -> None:
    for resize in ("squash", "crop", "letterbox"):
        (folder / "model.onnx").write_bytes(model(resize=resize, temperature=1.0))
        browser.open(f"{address}/index.html")
        browser.until("!document.getElementById('images').disabled")
        files = [folder / name for name in IMAGES]
        choose(browser, "images", *files)
        rows = shown(browser, len(files))
        ours = list(predict(files, folder / "model.onnx", top_k=5))
        for row, our in zip(rows, ours, strict=True):
            suffixes = ["", "_2", "_3", "_4", "_5"]
            assert [label for label, _ in row["best"]] == [our[f"label{suffix}"] for suffix in suffixes], resize
            expected = [our[f"confidence{suffix}"] for suffix in suffixes]
            assert [confidence for _, confidence in row["best"]] == pytest.approx(expected, abs=1e-4), resize
            assert row["label"] == our["label"]
    assert browser.complaints == []


def test_a_model_is_chosen_and_may_be_unsure(browser: Browser, folder: Path, address: str, tmp_path: Path) -> None:
    browser.open(f"{address}/index.html")
    browser.until("document.getElementById('state').textContent.startsWith('Choose a model')")
    (folder / "notes.onnx").write_bytes(b"\x08\x09 no model")
    choose(browser, "model", folder / "notes.onnx")
    browser.until("document.getElementById('state').textContent.includes('was not exported by kcv')")
    assert browser.run("document.getElementById('images').disabled") is True
    (folder / "mine.onnx").write_bytes(model(threshold=0.99))
    choose(browser, "model", folder / "mine.onnx")
    browser.until("document.getElementById('state').textContent.startsWith('mine.onnx: net, 7 classes')")
    broken = folder / "broken.png"
    broken.write_bytes(IMAGES["wide.png"][:60])
    choose(browser, "images", folder / "wide.png", broken)
    wide, bad = shown(browser, 2)
    assert (wide["label"], bad["label"]) == ("unsure", "cannot be read")
    assert len(wide["best"]) == 5 and bad["text"]
    browser.screenshot(tmp_path / "page.png")
