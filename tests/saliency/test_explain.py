"""The verb: a row and three files for each image, whatever single images hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kcv
from kcv.cli.specification import find_verb
from kcv.errors import DataError, OutputError, UsageError
from kcv.reporting.heat_map_files import FileNames
from kcv.saliency.methods import METHODS
from kcv.tasks.explain import explain


@pytest.fixture(scope="module")
def model(trained_run: Any) -> Any:
    return kcv.load_model(trained_run.model_path)


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_the_command_line_offers_all_methods() -> None:
    assert tuple(METHODS) == find_verb("explain").flags["method"].choices


@pytest.mark.full
def test_a_row_and_three_files_for_each_image(model: Any, images: Path, tmp_path: Path) -> None:
    folder = images / "test" / "left"
    rows = list(explain(folder, model, output=tmp_path / "out", batch_size=3))
    files = sorted(folder.iterdir())
    assert [row["path"] for row in rows] == [str(path) for path in files]
    maps, probabilities = kcv.gradcam(model, files), model.predict(files)
    for row, heat, scores in zip(rows, maps, probabilities, strict=True):
        assert row["label"] == model.class_names[scores.argmax()]
        assert row["probability"] == pytest.approx(scores.max(), abs=1e-5)
        assert (row["warning"], row["error"]) == ("", "")
        written = np.load(row["heatmap"])
        assert written.dtype == np.float32
        np.testing.assert_allclose(written, heat, atol=1e-5)
        assert size_of(row["overlay"]) == (256, 256)
        width, height = size_of(row["side_by_side"])
        assert width > 3 * 256
        assert height > 256
    assert size_of(str(tmp_path / "out" / "grid.png"))[0] > 500
    assert len(list((tmp_path / "out").iterdir())) == 3 * 8 + 2


def test_the_folder_is_beside_the_model_and_one_image_has_no_grid(
    trained_run: Any, images: Path, tmp_path: Path
) -> None:
    own = shutil.copy(trained_run.model_path, tmp_path / "model.keras")
    (row,) = explain(images / "test" / "top" / "000.png", own, class_name="centre", method="layercam")
    assert row["label"] == "centre"
    assert sorted(path.name for path in (tmp_path / "explanations").iterdir()) == [
        "000_heatmap.npy", "000_overlay.png", "000_side_by_side.png",
    ]  # fmt: skip


def test_an_image_that_cannot_be_read_is_a_row(model: Any, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "test" / "left", tmp_path / "in")
    (tmp_path / "in" / "003.png").write_bytes(b"\x89PNG no")
    rows = list(explain(tmp_path / "in", model, output=tmp_path / "out", batch_size=4))
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, False, False, False, False]
    assert rows[3]["overlay"] is None
    assert rows[3]["label"] is None
    assert list(rows[3]) == list(rows[0])
    assert len(list((tmp_path / "out").glob("*.npy"))) == 7


def test_images_of_one_name_do_not_overwrite_each_other(model: Any, images: Path, tmp_path: Path) -> None:
    rows = list(explain(sorted((images / "test").glob("*/00[01].png")), model, output=tmp_path))
    assert len(rows) == 6
    assert len({row["overlay"] for row in rows}) == 6
    assert len(list(tmp_path.glob("*_overlay.png"))) == 6


def test_names_differ_even_without_case_and_where_a_number_is_taken() -> None:
    names = FileNames()
    given = ["cat.png", "a/cat.jpg", "CAT.gif", "cat-2.png", "x" * 200 + ".png", "x" * 201 + ".png"]
    made = [names.of(Path(name)) for name in given]
    assert made[:4] == ["cat", "cat-2", "CAT-3", "cat-2-2"]
    assert len({name.casefold() for name in made}) == len(made)
    assert max(map(len, made)) < 70


def test_urls_are_refused_in_one_line() -> None:
    with pytest.raises(DataError, match=r"https://x/cat.jpg: explain reads no URLs; download the image first"):
        explain("https://x/cat.jpg", "none.keras")


def test_names_are_cut_by_bytes_and_never_within_a_character() -> None:
    names = FileNames()
    made = [
        names.of(Path(stem + ".png")) for stem in ("\U0001f600" * 60, "\U0001f600" * 62, "\u732b" * 80, "\xe9" * 125)
    ]
    made.append(names.of(Path(os.fsdecode(b"\xff" * 200) + ".png")))
    assert made[0] == "\U0001f600" * 37
    assert all(len(os.fsencode(name)) <= 160 for name in made)
    assert len(set(made)) == 5


@pytest.mark.full
def test_images_written_beside_the_read_ones_are_not_read(model: Any, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "test" / "left", tmp_path / "in")
    rows = list(explain(tmp_path / "in", model, output=tmp_path / "in" / "why", recursive=True, batch_size=2))
    assert len(rows) == 8


def test_a_flat_map_is_said_and_not_coloured(trained_run: Any, images: Path, tmp_path: Path) -> None:
    model = kcv.load_model(trained_run.model_path)
    logits = model.keras_model.get_layer("logits")
    logits.kernel.assign(np.zeros(logits.kernel.shape, np.float32))
    (row,) = explain(images / "test" / "top" / "000.png", model, output=tmp_path)
    assert "flat map" in row["warning"]
    assert row["error"] == ""
    assert not np.load(row["heatmap"]).any()
    with Image.open(row["overlay"]) as drawn, Image.open(images / "test" / "top" / "000.png") as image:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(image.resize((256, 256), Image.Resampling.NEAREST)))


def test_what_is_wrong_is_said_at_once(model: Any, exported: Any, images: Path, tmp_path: Path) -> None:
    one = images / "test" / "top" / "000.png"
    for wrong, kind in (
        ({"class_name": "cat"}, UsageError),
        ({"method": "cam"}, UsageError),
        ({"layer": "pool"}, UsageError),
    ):
        with pytest.raises(kind):
            explain(one, model, output=tmp_path / "out", **wrong)
    with pytest.raises(DataError):
        explain(tmp_path / "none.png", model)
    with pytest.raises(UsageError, match=r"has no heat maps; `kcv export --heatmaps` adds them"):
        explain(one, exported.path)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        list(explain(one, model, output=tmp_path / "file"))
