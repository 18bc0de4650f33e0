"""Heat maps over images are drawn where they are hot, and not at all where they are flat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kcv
from kcv.errors import OutputError
from kcv.reporting import plots
from kcv.reporting.plots import heatmaps


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((32, 32, 3), 100, np.uint8)


@pytest.fixture
def corner() -> np.ndarray:
    heat = np.zeros((32, 32), np.float32)
    heat[:8, 24:] = 1
    return heat


def test_an_overlay_colours_what_is_hot_and_leaves_the_rest(
    grey: np.ndarray, corner: np.ndarray, tmp_path: Path
) -> None:
    drawn = read(plots.save_overlay(grey, corner, tmp_path / "new" / "o.png"))
    assert drawn.shape == (256, 256, 3)
    assert (drawn[80:, :170] == 100).all()
    hot = drawn[8:48, 208:248]
    assert (hot[..., 0] > 200).all()  # the yellow end of the scale
    assert (hot[..., 0] - hot[..., 2] > 40).all()


def test_a_flat_map_leaves_the_image_as_it_is(grey: np.ndarray, tmp_path: Path) -> None:
    flat = np.zeros((32, 32), np.float32)
    assert (read(plots.save_overlay(grey, flat, tmp_path / "o.png")) == 100).all()
    beside = read(plots.save_side_by_side(grey, flat, tmp_path / "s.png", title="cat 90.0%"))
    saturation = beside.max(axis=2) - beside.min(axis=2)
    assert saturation.max() == 0


def test_small_images_are_enlarged_and_large_ones_are_not(tmp_path: Path) -> None:
    for size, side in ((16, 256), (96, 288), (224, 448), (300, 300)):
        pixels, heat = np.zeros((size, size, 3), np.uint8), np.ones((size, size), np.float32)
        assert heatmaps.overlay(pixels, heat).shape == (side, side, 3)


def test_side_by_side_holds_image_map_and_overlay(grey: np.ndarray, corner: np.ndarray, tmp_path: Path) -> None:
    grey[:16] = 30
    path = plots.save_side_by_side(grey, corner, tmp_path / "s.png", title="a class", note="gradcam at conv")
    drawn = read(path)
    assert drawn.shape[1] > 3 * 256
    title = drawn[:40]
    assert (title.sum(axis=2) < 300).sum() > 50  # ink
    panels = drawn[-256 - 16 : -16, 16:-16]
    image, overlay = panels[:, :256], panels[:, -256:]
    np.testing.assert_array_equal(image, grey.repeat(8, axis=0).repeat(8, axis=1))
    np.testing.assert_array_equal(overlay, heatmaps.overlay(grey, corner))
    assert (panels[200:, 300:400].sum(axis=2) < 40).all()  # the map alone: black where nothing speaks for the class


@pytest.mark.parametrize(("count", "most"), [(1, 4), (3, 4), (5, 4), pytest.param(40, None, marks=pytest.mark.full)])
def test_a_grid_of_any_number(
    count: int, most: int | None, grey: np.ndarray, corner: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = most or plots.MOST_IN_GRID
    monkeypatch.setattr(heatmaps, "MOST_IN_GRID", most)
    titles = [f"<class> & $5 {i}" for i in range(count)]
    path = kcv.save_gradcam_grid([grey] * count, [corner] * count, titles, str(tmp_path / "grid.png"), note="gradcam")
    drawn = read(path)
    assert max(drawn.shape) < 3000
    svg = path.with_suffix(".svg").read_text(encoding="utf-8")
    assert [f"$5 {i}<" in svg for i in range(count)] == [i < most for i in range(count)]


def test_a_grid_says_which_maps_are_flat(grey: np.ndarray, corner: np.ndarray, tmp_path: Path) -> None:
    heats = [corner, np.zeros_like(corner), corner]
    path = plots.save_gradcam_grid([grey] * 3, heats, ["a", "b", "c"], tmp_path / "grid.png")
    assert path.with_suffix(".svg").read_text(encoding="utf-8").count("flat map") == 1


def test_a_place_that_cannot_be_written_is_said(grey: np.ndarray, corner: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        plots.save_overlay(grey, corner, tmp_path / "file" / "o.png")
    with pytest.raises(OutputError):
        plots.save_gradcam_grid([grey], [corner], ["a"], tmp_path / "file" / "g.png")
