"""`POST /explain`: heat maps without torch, as PNG and as numbers."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx_with_maps import with_heatmaps
from PIL import Image
from served_images import photo
from serving import Running, serving

from kcv import explain, images
from kcv.errors import UsageError
from kcv.inference.onnx_model import OnnxModel

PHOTO = photo(4)
JSON = {"Accept": "application/json"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heat maps."""
    path = tmp_path_factory.mktemp("maps") / "maps.onnx"
    path.write_bytes(with_heatmaps())
    return path


@pytest.fixture(scope="module")
def mapped(path: Path) -> Iterator[Running]:
    """A server of that model."""
    with serving(path) as running:
        yield running


def test_the_numbers_are_those_of_the_model(mapped: Running, path: Path) -> None:
    pixels = images.load(PHOTO, 16, "squash")[None]
    for query, position in (("", None), ("?class_name=c", 2)):
        found = mapped.post(f"/explain{query}", PHOTO, **JSON).json
        wanted = OnnxModel(path).explain(pixels, position)
        assert found["class_name"] == "abc"[wanted.classes[0]]
        assert found["probability"] == pytest.approx(wanted.probabilities[0, wanted.classes[0]], abs=1e-6)
        np.testing.assert_allclose(found["heatmap"], wanted.maps[0], atol=1e-4)
        assert found["prediction"] == mapped.post("/predict", PHOTO).json["predictions"][0]


def test_without_another_wish_it_is_an_image(mapped: Running) -> None:
    answered = mapped.post("/explain", PHOTO)
    assert answered.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answered.body)).size == (256, 256)
    other = mapped.post("/explain?class_name=b", PHOTO)
    assert other.body != answered.body or mapped.post("/explain", PHOTO, **JSON).json["class_name"] == "b"


@pytest.mark.parametrize(
    ("query", "body", "code", "words"),
    [
        ("?class_name=d", PHOTO, 400, "class_name: no class 'd'"),
        ("?class=a", PHOTO, 400, "unknown parameter 'class'"),
        ("?model=x", PHOTO, 404, "no model 'x'"),
        ("", b"no image, but long enough", 415, "not an image"),
        ("", PHOTO[:100], 422, "cannot be read"),
    ],
)
def test_what_cannot_be_explained_is_refused(mapped: Running, query: str, body: bytes, code: int, words: str) -> None:
    answered = mapped.post(f"/explain{query}", body)
    assert answered.code == code
    assert words in answered.json["error"]


def test_a_model_without_heat_maps_says_how_to_get_them(running: Running) -> None:
    answered = running.post("/explain", PHOTO)
    assert (answered.code, "`kcv export --heatmaps` adds them" in answered.json["error"]) == (501, True)


def test_the_verb_explains_an_onnx_file_without_torch(path: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PHOTO)
    script = f"""
import sys
from kcv import explain
(row,) = explain({str(tmp_path / "a.png")!r}, {str(path)!r}, output={str(tmp_path / "why")!r})
print(row["label"], row["heatmap"], *sorted(sys.modules), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    label, file, *loaded = done.stdout.splitlines()
    found = OnnxModel(path).explain(images.load(PHOTO, 16, "squash")[None])
    assert label == "abc"[found.classes[0]]
    np.testing.assert_allclose(np.load(file), found.maps[0], atol=1e-6)
    assert not {"torch", "keras"} & {name.partition(".")[0] for name in loaded}


def test_the_verb_says_what_an_onnx_file_cannot(path: Path, network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PHOTO)
    with pytest.raises(UsageError, match="has no heat maps; `kcv export --heatmaps` adds them"):
        explain(tmp_path / "a.png", network_file)
    for wish in ({"method": "layercam"}, {"layer": "conv"}):
        with pytest.raises(UsageError, match="an ONNX file has the maps of gradcam at the last layer"):
            explain(tmp_path / "a.png", path, **wish)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no class 'd'"):
        explain(tmp_path / "a.png", path, class_name="d")
