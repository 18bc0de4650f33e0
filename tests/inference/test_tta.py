"""Test-time augmentation: views by their definition, the same bytes everywhere, and one mean in both kinds of file."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from kcv import evaluate, load_model, predict
from kcv.errors import DataError, UsageError
from kcv.inference.exported import ExportedInfo
from kcv.inference.keras_model import LoadedModel
from kcv.inference.onnx_model import OnnxModel
from kcv.inference.tta import Tta, averaged
from kcv.metrics.temperature import Calibration, TtaCalibrations, fit, softmax

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

NAMES = ("flip", "five_crop", "6")


def noise(n: int = 3, size: int = 16) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(trained_run: Run) -> LoadedModel:
    return load_model(trained_run.model_path)


@pytest.fixture
def run(trained_run: Run, tmp_path: Path) -> Path:
    shutil.copytree(trained_run.directory, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Returns a function that takes what has been logged since it was last called."""
    monkeypatch.setattr(logging.getLogger("kcv"), "propagate", True)
    caplog.set_level(logging.INFO, "kcv")

    def take() -> str:
        text = caplog.text
        caplog.clear()
        return text

    return take


def test_flip_is_the_image_and_its_mirror_image() -> None:
    pixels = noise()
    plain, mirrored = (view(pixels) for view in Tta("flip").views(16))
    np.testing.assert_array_equal(plain, pixels)
    np.testing.assert_array_equal(mirrored, pixels[:, :, ::-1])


@pytest.mark.parametrize("size", [2, 7, 16, 33])
def test_five_crops_are_those_of_the_image_with_mirrored_edges(size: int) -> None:
    reach = max(1, size // 16)
    pixels = noise(2, size)
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    first, *corners = (view(pixels) for view in Tta("five_crop").views(size))
    np.testing.assert_array_equal(first, pixels)
    places = [(2 * reach, 2 * reach), (2 * reach, 0), (0, 2 * reach), (0, 0)]
    for found, (top, left) in zip(corners, places, strict=True):
        np.testing.assert_array_equal(found, padded[:, top : top + size, left : left + size])


def test_an_image_of_one_pixel_has_views() -> None:
    for name in NAMES:
        assert all((view(noise(2, 1)) == noise(2, 1)).all() for view in Tta(name).views(1))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_number_of_views_are_the_image_and_different_shifts_of_it(mirrored: bool) -> None:
    pixels = noise(2, 32)
    some, more = ([view(pixels) for view in Tta(name).views(32, mirrored=mirrored)] for name in ("4", "40"))
    different = len({view.tobytes() for view in more})
    assert (different, len(more)) == (40, 40)
    np.testing.assert_array_equal(some[0], pixels)
    for one, other in zip(some, more, strict=False):
        np.testing.assert_array_equal(one, other)


def test_the_shifts_are_those_that_files_were_calibrated_with() -> None:
    """Stored calibrations belong to these views, so they stay the same in all versions, on every machine."""
    shifts = [(8 - int(view.rows[8]), 8 - int(view.columns[8])) for view in Tta("8").views(32)]
    assert shifts == [(0, 0), (0, -1), (-2, 2), (2, -3), (-3, 0), (1, 3), (-1, -2), (3, 1)]
    places = np.array([(8 - int(view.rows[8]), 8 - int(view.columns[8])) for view in Tta("64").views(64)])
    assert np.abs(places.mean(axis=0)).max() < 0.5, "evenly spread"


def test_only_a_model_that_was_trained_on_mirror_images_sees_some(trained_run: Run, exported: Export) -> None:
    plain, flipping = (Tta("6").views(16, mirrored=mirrored) for mirrored in (False, True))
    assert [bool((np.diff(view.columns[4:12]) < 0).all()) for view in plain] == [False] * 6
    assert [bool((np.diff(view.columns[4:12]) < 0).all()) for view in flipping] == [False, True] * 3
    info = load_model(trained_run.model_path).info
    for changes, mirrored in (
        ({"flip": "none"}, False),
        ({"flip": "alternating"}, True),
        ({"flip": "random"}, True),
        ({"layers": ["RandomFlip"]}, True),
        ({"layers": [{"name": "RandomFlip", "mode": "vertical"}, {"name": "RandAugment"}]}, False),
        (None, False),
        ({"layers": 7}, False),
    ):
        changed = info.model_copy(update={"config": {**info.config, "augment": changes}})
        assert changed.mirrored is mirrored, changes
    onnx = OnnxModel(exported.path)
    assert (info.mirrored, onnx.info.mirrored) == (False, False)
    described = replace(onnx.info, mirrored=True)
    assert ExportedInfo.from_metadata(described.to_metadata(), "file").mirrored


@pytest.mark.parametrize("name", [*NAMES, "40"])
def test_numpy_and_torch_see_the_same_bytes(name: str) -> None:
    pixels = noise(4, 27)
    for view in Tta(name).views(27):
        ours, theirs = view(pixels), view(torch.from_numpy(pixels))
        assert ours.dtype == np.uint8 and theirs.dtype == torch.uint8 and ours.shape == pixels.shape
        np.testing.assert_array_equal(ours, theirs.numpy())


ODD_NAMES = ["", "flop", "1", "0", "65", "-3", "2.5", "07", "FLIP", "five_crops", "9" * 5000, "\x1b[2J"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_is_no_augmentation_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=r"--tta: received .*allowed: flip, five_crop, or a number of views") as caught:
        Tta.parse(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    sound = [*NAMES, "2", "9", "10", "59", "60", "64"]
    assert [Tta.parse(each).name for each in sound] == sound
    # A file holds calibrations for the same names, and no others.
    assert list(TtaCalibrations({each: Calibration() for each in sound}).root) == sound
    with pytest.raises(ValidationError):
        TtaCalibrations({name: Calibration()})


@pytest.mark.parametrize("name", NAMES)
def test_both_kinds_of_file_give_the_mean_over_the_views(name: str, model: LoadedModel, exported: Export) -> None:
    pixels, tta = noise(5, model.image_size), Tta(name)
    onnx = OnnxModel(exported.path)
    each = np.stack([onnx.logits(view(pixels)) for view in tta.views(model.image_size)])
    expected = each.mean(axis=0)
    ours, theirs = model.with_tta(tta), onnx.with_tta(tta)
    with torch.no_grad():
        by_keras = ours.forward(torch.from_numpy(pixels)).numpy()
    for found in (by_keras, theirs.logits(pixels)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(onnx.logits(pixels) - expected).max() > 0.1
    for one in (ours, theirs):
        scores = softmax(expected, model.calibration.temperature)
        np.testing.assert_allclose(one.predict_pixels(pixels), scores, atol=1e-3)
    assert (model.tta_name, onnx.tta_name, ours.tta_name, theirs.tta_name) == (None, None, name, name)


def test_the_mean_is_that_of_logits() -> None:
    pixels = noise(2, 8)
    found = averaged(lambda images: images.reshape(2, -1)[:, :4].astype(np.float32), pixels, Tta("flip").views(8))
    both = pixels.reshape(2, -1)[:, :4] / 2 + pixels[:, :, ::-1].reshape(2, -1)[:, :4] / 2
    np.testing.assert_allclose(found, both)


def test_evaluate_fits_it_on_validation_says_what_it_brings_and_leaves_the_file(
    run: Path, told: Callable[[], str]
) -> None:
    from kcv.inference import splits

    path = run / "model.keras"
    before, plain = path.read_bytes(), json.loads((run / "metrics.json").read_text())
    result = evaluate(path, plots=False, tta="flip")
    assert path.read_bytes() == before
    assert result.directory == run / "evaluation-tta-flip"
    assert "gain of flip" in (result.directory / "report.html").read_text()
    augmented = load_model(path).with_tta(Tta("flip"))
    val, test = (splits.load_split(augmented, split) for split in ("val", "test"))
    fitted = fit(augmented.logits(val), val.labels)
    np.testing.assert_array_equal(result.probabilities, fitted.probabilities(augmented.logits(test)))
    gained = result.metrics["tta"]
    assert gained["plain_accuracy"] == plain["accuracy"]
    points = 100 * (result.metrics["accuracy"] - plain["accuracy"])
    assert gained["difference_points"] == pytest.approx(points)
    low, high = gained["difference_ci95_points"]
    assert low <= points <= high and gained["views"] == 2
    assert min(gained["images_per_second"], gained["plain_images_per_second"]) > 0
    assert "tta" not in evaluate(path, plots=False).metrics


def test_a_calibration_of_its_own_is_kept_beside_the_plain_one_and_used(
    run: Path, images: Path, told: Callable[[], str]
) -> None:
    path = run / "model.keras"
    evaluate(path, plots=False, coverage=0.9)
    plain = load_model(path)
    rows = list(predict(images / "test" / "top", path, tta="flip"))
    assert "was not calibrated for --tta=flip; `kcv evaluate --calibrate --tta=flip` does that" in told()
    assert all("prediction_set" not in row for row in rows)
    evaluate(path, plots=False, calibrate=True, tta="flip")
    after = load_model(path)
    assert after.calibration == plain.calibration
    assert after.info.metrics == plain.info.metrics
    kept = after.with_tta(Tta("flip")).calibration
    assert kept.sets is not None and kept.sets.wanted_coverage == 0.9
    rows = list(predict(images / "test" / "top", path, tta="flip"))
    assert all(row["label"] in row["prediction_set"] for row in rows)
    assert "flip" not in told()
    evaluate(path, plots=False, calibrate=True)
    assert load_model(path).info.tta.root == {"flip": kept}, "weights have not changed"


@pytest.mark.full
def test_without_its_validation_split_it_is_measured_with_the_plain_temperature(
    run: Path, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kcv.inference import splits

    def no_val(model: LoadedModel, split: str, *args: Any, **kwargs: Any) -> Any:
        if split == "val":
            raise DataError("the validation images are gone")
        return load_split(model, split, *args, **kwargs)

    load_split = splits.load_split
    monkeypatch.setattr(splits, "load_split", no_val)
    result = evaluate(run / "model.keras", plots=False, tta="3")
    augmented = load_model(run / "model.keras").with_tta(Tta("3"))
    logits = augmented.logits(load_split(augmented, "test"))
    np.testing.assert_array_equal(result.probabilities, softmax(logits, augmented.calibration.temperature))
    assert "the validation images are gone" in told()


def test_parts_with_and_without_views_are_not_mixed(exported: Export, images: Path, tmp_path: Path) -> None:
    from kcv.errors import OutputError

    files, output = sorted((images / "test" / "top").iterdir()), tmp_path / "rows.csv"
    rows = predict(files, exported.path, output=output, resume=True, batch_size=2)
    next(rows)
    rows.close()
    with pytest.raises(OutputError, match=r"is of another prediction \(its .*tta.* differ\)"):
        list(predict(files, exported.path, output=output, resume=True, batch_size=2, tta="flip"))


@pytest.fixture(scope="module")
def mirrored(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's model as an ONNX file that averages mirror images."""
    from kcv import export

    path = tmp_path_factory.mktemp("mirrored") / "flip.onnx"
    export(trained_run.model_path, path, tta="flip")
    return path


def test_an_exported_graph_averages_by_itself(mirrored: Path, model: LoadedModel) -> None:
    from kcv.inference import splits

    found = OnnxModel(mirrored)
    augmented = model.with_tta(Tta("flip"))
    val = splits.load_split(augmented, "val")
    temperature = fit(augmented.logits(val), val.labels).temperature
    assert found.info.temperature == temperature
    pixels = noise(5, model.image_size)
    with torch.no_grad():
        each = [model.forward(torch.from_numpy(view(pixels))).numpy() for view in Tta("flip").views(16)]
    logits = np.mean(each, axis=0)
    np.testing.assert_allclose(found.predict_pixels(pixels), softmax(logits, temperature), atol=1e-5)
    np.testing.assert_allclose(found.predict_pixels(pixels), found.predict_pixels(pixels[:, :, ::-1]), atol=1e-5)


def test_an_exported_graph_is_not_augmented_again(mirrored: Path, tmp_path: Path) -> None:
    Image.fromarray(noise(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"was exported with --tta=flip, and averages by itself"):
        predict(tmp_path / "a.png", mirrored, tta="five_crop")


def test_the_parity_gate_sees_whether_a_graph_averages(mirrored: Path, model: LoadedModel) -> None:
    from kcv.errors import ParityError
    from kcv.exporting.parity import compare
    from kcv.exporting.samples import Samples
    from kcv.native.precision import in_float32

    exact, made = in_float32(model.keras_model), OnnxModel(mirrored, device="cpu")
    samples = Samples("noise", noise(6, model.image_size), None)
    calibration = model.calibration.model_copy(update={"temperature": made.info.temperature})
    compare(exact, made, samples, calibration, Tta("flip").views(model.image_size)).check()
    for views in ([], Tta("five_crop").views(model.image_size)):
        with pytest.raises(ParityError, match="logits differ by up to"):
            compare(exact, made, samples, calibration, views).check()


def test_heat_maps_of_several_views_are_refused(trained_run: Run, tmp_path: Path) -> None:
    from kcv import export

    with pytest.raises(UsageError, match="--heatmaps: allowed without --tta only"):
        export(trained_run.model_path, tmp_path / "m.onnx", tta="flip", heatmaps=True)
    assert list(tmp_path.iterdir()) == []
