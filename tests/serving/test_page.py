"""The page at `/`: markup that people with any device can use, a policy that fits, and scripts that compute right."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_by_hand import network
from onnx_with_maps import with_heatmaps
from served_images import photo, with_texts
from serving import Running, serving

from kcv.common.files import csv_writer
from kcv.inference.reference import Reference
from kcv.metrics.conformal import PredictionSets
from kcv.serving import page as page_module
from kcv.serving.page import page
from kcv.serving.settings import MB

SCRIPTS = Path(page_module.__file__).parent / "templates"
TOKEN = "0123456789abcdef-token"
EMPTY = {"meta", "link", "input", "img"}
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


class Markup(HTMLParser):
    """The elements of a page: each with its name, its attributes, and those around it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.texts: dict[str, str] = {}
        self.problems: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.problems += [f"{name} is not closed" for name in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.problems += [
            f"{tag}: {name} twice" for name, count in Counter(name for name, _ in attrs).items() if count > 1
        ]
        self.elements.append((tag, dict(attrs), list(self._open)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes, _ in self.elements if tag in tags]


@pytest.fixture(scope="module")
def markup() -> Markup:
    return Markup(page().html)


def test_it_is_well_formed(markup: Markup) -> None:
    assert markup.problems == []
    assert page().html.startswith("<!doctype html>")
    assert markup.all("html") == [{"lang": "en"}]
    assert len(markup.all("h1")) == len(markup.all("main")) == 1
    ids = [attributes["id"] for _, attributes, _ in markup.elements if "id" in attributes]
    assert ids and len(set(ids)) == len(ids)


def test_everything_that_is_operated_has_a_name(markup: Markup) -> None:
    labelled = {attributes.get("for") for attributes in markup.all("label")}
    controls = [one for one in markup.elements if one[0] in ("input", "select", "progress", "textarea")]
    assert len(controls) >= 7
    for tag, attributes, around in controls:
        assert "label" in around or attributes.get("id") in labelled, (tag, attributes)
    for attributes in markup.all("button"):
        assert attributes.get("type") in ("button", "submit")
    for attributes in markup.all("img"):
        assert "alt" in attributes
    assert all("aria-label" in attributes for attributes in markup.all("video"))


def test_references_within_it_lead_somewhere(markup: Markup) -> None:
    ids = {attributes.get("id") for _, attributes, _ in markup.elements}
    for name in ("for", "aria-labelledby", "aria-describedby", "list"):
        named = [attributes[name] for _, attributes, _ in markup.elements if attributes.get(name)]
        assert set(named) <= ids, name
    script = markup.texts["script"]
    assert set(re.findall(r'byId\("([\w-]+)"\)', script)) <= ids
    classes = {one for _, attributes, _ in markup.elements for one in (attributes.get("class") or "").split()}
    assert set(re.findall(r'part\("([\w-]+)"\)', script)) <= classes


def test_results_and_problems_are_announced(markup: Markup) -> None:
    roles = {attributes.get("id"): attributes.get("role") for attributes in markup.all("p")}
    assert (roles["status"], roles["problem"]) == ("status", "alert")


def test_nothing_comes_from_elsewhere_and_no_handler_stands_in_the_markup(markup: Markup) -> None:
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", page().html.replace("over https and", ""))
    for tag, attributes, _ in markup.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset", "action")
        ], tag
        assert attributes.get("href") in (None, "data:,")


def test_data_never_becomes_markup(markup: Markup) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(\"on"
    assert not re.search(forbidden, markup.texts["script"])
    assert not re.search("localStorage|sessionStorage|indexedDB|cookie", markup.texts["script"])  # for the token
    assert "</" not in markup.texts["script"] and "<!--" not in markup.texts["script"]


def test_the_policy_lets_only_its_own_script_and_style_run(running: Running, markup: Markup) -> None:
    answered = running.get("/")
    assert (answered.code, answered.headers["content-type"]) == (200, "text/html; charset=utf-8")
    found = dict(part.strip().split(" ", 1) for part in answered.headers["content-security-policy"].split(";"))
    served = Markup(answered.body.decode())
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        digest = hashlib.sha256(served.texts[tag].encode()).digest()
        assert found[directive] == f"'sha256-{base64.b64encode(digest).decode()}'"
        assert len(served.all(tag)) == 1
    assert found["default-src"] == found["base-uri"] == found["form-action"] == found["frame-ancestors"] == "'none'"
    assert (found["connect-src"], found["img-src"]) == ("'self'", "blob: data:")
    assert "unsafe" not in answered.headers["content-security-policy"]
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert answered.headers["permissions-policy"].startswith("camera=(self)")


def test_the_page_shows_nothing_of_a_model_without_the_token(network_file: Path) -> None:
    with serving(network_file, token=TOKEN) as running:
        assert running.get("/").body.decode() == page().html
        assert running.get("/models").code == 401
        found = running.get("/models", Authorization=f"Bearer {TOKEN}")
        assert found.json["models"][0]["class_names"] == ["a", "b", "c"]
        assert running.ask("POST", "/").code == 405


def test_it_asks_only_routes_that_exist(running: Running, markup: Markup) -> None:
    asked = set(re.findall(r'(?:ask|send)\("(\w+)"', markup.texts["script"]))
    assert asked == {"models", "predict", "explain", "feedback"}
    for route in asked - {"feedback"}:
        assert running.ask("GET" if route == "models" else "POST", f"/{route}").code != 404


def test_models_are_described_as_they_are(network_file: Path, tmp_path: Path) -> None:
    sets = PredictionSets(wanted_coverage=0.9, least=0.2, images=40)
    texts = {"threshold": "0.5", "resize": "crop", "prediction_sets": sets.to_text()}
    (tmp_path / "maps.onnx").write_bytes(with_texts(with_heatmaps(), **texts))
    with serving(network_file, tmp_path / "maps.onnx", max_bytes=3 * MB) as running:
        found = running.get("/models").json
        digests = [served.version.digest for served in running.service.models.values()]
    first, second = found["models"]
    assert (found["feedback"], found["max_bytes"]) == (False, 3_000_000)
    assert [first["name"], second["name"]] == ["net", "maps"]
    assert [first["version"], second["version"]] == digests
    assert (first["heatmaps"], first["threshold"], first["resize"], first["reference"]) == (False, None, "squash", None)
    assert (second["heatmaps"], second["threshold"], second["resize"]) == (True, 0.5, "crop")
    assert (first["coverage"], second["coverage"]) == (None, 0.9)


def test_answers_so_far_stand_beside_those_of_the_test_split(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="needs prometheus-client, of the extra serve")
    reference = Reference(split="test", confidence=tuple(range(15)), predicted=(10, 0, 30))
    path = tmp_path / "net.onnx"
    path.write_bytes(with_texts(network(), reference=reference.to_text()))
    with serving(path, f"other={path}") as running:
        assert running.get("/models").json["models"][0]["answers"] == {"confidence": [0] * 15, "predicted": [0] * 3}
        rows = [running.post("/predict", photo(seed)).json["predictions"][0] for seed in range(9)]
        running.post("/predict?model=other", photo(1))
        found, other = running.get("/models").json["models"]
    bins = Counter(min(14, int(np.ceil(15 * row["confidence"])) - 1) for row in rows)
    assert found["answers"]["confidence"] == [bins[number] for number in range(15)]
    assert found["answers"]["predicted"] == [sum(row["likeliest"] == name for row in rows) for name in "abc"]
    assert sum(other["answers"]["confidence"]) == sum(other["answers"]["predicted"]) == 1
    assert found["reference"] == {"split": "test", "confidence": list(range(15)), "predicted": [10, 0, 30]}


def test_behind_a_proxy_the_browsers_own_word_decides(running: Running) -> None:
    outside = {"Origin": "https://models.example.org"}  # the proxy has set Host to localhost
    assert running.post("/predict", photo(1), **outside).code == 403
    assert running.post("/predict", photo(1), **outside, Sec_Fetch_Site="same-origin").code == 200
    for word in ("cross-site", "same-site", "none"):
        assert running.post("/predict", photo(1), **outside, Sec_Fetch_Site=word).code == 403


def computed(script: str, **values: Any) -> Any:
    """Returns what an expression of JavaScript gives, with the page's functions and some values at hand."""
    source = "".join((SCRIPTS / name).read_text(encoding="utf-8") for name in ("csv.js", "heat_map.js"))
    code = f"{source}\nconst given = {json.dumps(values)};\nprocess.stdout.write(JSON.stringify({script}));"
    done = subprocess.run(["node", "-"], input=code, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_its_scripts_are_javascript(tmp_path: Path, markup: Markup) -> None:
    whole = tmp_path / "page.js"
    whole.write_text(markup.texts["script"], encoding="utf-8")
    done = subprocess.run(["node", "--check", whole], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_node
def test_its_tables_are_those_that_kcv_writes() -> None:
    texts = ["plain", "=1+1", "+1", "-1", "-1e5", "-1-1", "@SUM(A1)", "\tx", "\rx", "\nx", "a,b", 'say "x"',
             "two\nlines", "-.5", "+.", "=", "", " =1", "ü 漢", "1e", "-1.", "'", "-Infinity"]  # fmt: skip
    rows = [[text, 0.25, None, 3] for text in texts]
    stream = io.StringIO()
    write = csv_writer(stream)
    for row in rows:
        write(row)
    assert computed("csvOf(given.rows)", rows=rows) == stream.getvalue()


@needs_node
def test_its_rows_are_those_of_predict() -> None:
    top = [{"label": "a", "confidence": 0.5}, {"label": "=b", "confidence": 0.25}, {"label": "c", "confidence": 0.2}]
    found = {"label": "unsure", "likeliest": "a", "confidence": 0.5, "top": top}
    images = [{"name": "=x.png", "found": found, "error": None}, {"name": "y.png", "found": None, "error": "bad"}]
    text = computed("csvOf(predictionRows(given.images))", images=images)
    first, second = csv.DictReader(io.StringIO(text))
    assert first == {"path": "'=x.png", "label": "unsure", "confidence": "0.5", "error": "", "likeliest": "a",
                     "label_2": "'=b", "confidence_2": "0.25", "label_3": "c", "confidence_3": "0.2"}  # fmt: skip
    assert (second["path"], second["label"], second["error"], second["confidence_3"]) == ("y.png", "", "bad", "")
    images[0]["found"]["prediction_set"] = ["a", 'say "b"']  # type: ignore[index]
    first, second = csv.DictReader(io.StringIO(computed("csvOf(predictionRows(given.images))", images=images)))
    assert (json.loads(first["prediction_set"]), second["prediction_set"]) == (["a", 'say "b"'], "")


@needs_node
def test_its_heat_maps_have_the_colours_of_the_servers() -> None:
    heat = np.linspace(0, 1, 49).reshape(7, 7)
    found = np.array(computed("Array.from(heatMapPixels(given.rows))", rows=heat.tolist())).reshape(7, 7, 4)
    wanted = 255 * np.clip(3 * heat[..., None] - np.arange(3), 0, 1)
    assert np.abs(found[..., :3] - wanted).max() <= 0.5
    assert np.abs(found[..., 3] - 255 * heat).max() <= 0.5


@needs_node
def test_a_heat_map_lies_on_what_the_model_sees() -> None:
    def seen(width: int, height: int, resize: str) -> dict[str, float]:
        found: dict[str, float] = computed("seenPart(...given.words)", words=[width, height, resize])
        return found

    assert seen(200, 100, "squash") == {"left": 0, "top": 0, "width": 1, "height": 1}
    assert seen(200, 100, "crop") == {"left": 0.25, "top": 0, "width": 0.5, "height": 1}
    assert seen(100, 200, "letterbox") == {"left": -0.5, "top": 0, "width": 2, "height": 1}
    assert seen(0, 0, "crop") == {"left": 0, "top": 0, "width": 1, "height": 1}


@needs_node
@pytest.mark.parametrize(("row", "column", "words"), [
    (1, 1, "at the upper left"), (4, 4, "in the middle"), (8, 4, "at the bottom"), (0, 8, "at the upper right")
])  # fmt: skip
def test_where_a_heat_map_is_strongest_is_said_in_words(row: int, column: int, words: str) -> None:
    heat = np.full((9, 9), 0.1)
    heat[row, column] = 1
    assert computed("strongestPart(given.rows)", rows=heat.tolist()) == words
    assert computed("strongestPart(given.rows)", rows=np.zeros((9, 9)).tolist()) is None
