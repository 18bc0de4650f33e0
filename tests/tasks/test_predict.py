"""Prediction: rows in order, bad images among good ones, and the files that rows go to."""

import csv
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kcv.common.cores import usable_cores
from kcv.errors import ArtifactError, DataError, UsageError


@pytest.fixture(scope="module")
def model(trained_run):
    from kcv import load_model

    return load_model(trained_run.model_path)


def _files(images):
    return sorted((images / "test").rglob("*.png"))


def test_rows_come_in_order_and_say_what_the_model_says(model, images):
    from kcv import predict

    files = _files(images)
    rows = list(predict([str(images / "test")], model, batch_size=5, recursive=True))
    assert [row["path"] for row in rows] == [str(path) for path in files]
    expected = model.predict(files)
    np.testing.assert_allclose([row["confidence"] for row in rows], expected.max(axis=1), rtol=1e-4)
    assert [row["label"] for row in rows] == [model.class_names[i] for i in expected.argmax(axis=1)]
    assert all(set(row) == {"path", "label", "confidence", "error", "probabilities"} for row in rows)
    assert np.mean([row["label"] in row["path"] for row in rows]) > 0.9


def test_a_single_image_is_ranked(model, images):
    from kcv import predict

    (row,) = predict(str(_files(images)[0]), model)
    assert [row["label"], row["label_2"], row["label_3"]] == sorted(
        model.class_names, key=lambda name: -row["probabilities"][name]
    )
    assert row["confidence"] >= row["confidence_2"] >= row["confidence_3"]
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    (short,) = predict(str(_files(images)[0]), model, top_k=1)
    assert "label_2" not in short


def test_a_bad_image_is_a_row_and_the_others_still_come(model, images, tmp_path):
    from kcv import predict

    bad = tmp_path / "broken, or not.png"
    bad.write_bytes(b"\x89PNG nothing more")
    first, last = _files(images)[:2]
    rows = list(predict([first, bad, last], model, batch_size=2))
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert rows[1]["label"] is None
    assert str(bad) in rows[1]["error"]


def test_only_bad_images_are_rows_too(model, tmp_path):
    from kcv import predict

    (tmp_path / "a.jpg").write_bytes(b"")
    (row,) = predict(tmp_path / "a.jpg", model)
    assert row["error"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_hold_the_rows(model, images, tmp_path, suffix):
    from kcv import predict

    bad = tmp_path / 'quote " comma ,.png'
    bad.write_bytes(b"nothing")
    output = tmp_path / "out" / f"rows{suffix}"
    rows = list(predict([*_files(images)[:3], bad], model, top_k=2, output=output, batch_size=2))
    if suffix == ".csv":
        stored = list(csv.DictReader(output.read_text().splitlines()))
        assert stored[-1]["label"] == ""
    elif suffix == ".jsonl":
        stored = [json.loads(line) for line in output.read_text().splitlines()]
        assert stored[0]["probabilities"] == rows[0]["probabilities"]
        assert stored[-1]["label"] is None
    else:
        from pyarrow import parquet

        stored = parquet.read_table(output).to_pylist()
        assert stored[-1]["label"] is None
    assert [row["path"] for row in stored] == [row["path"] for row in rows]
    assert [float(row["confidence_2"]) for row in stored[:3]] == [row["confidence_2"] for row in rows[:3]]
    assert stored[-1]["error"] == rows[-1]["error"]
    assert {"path", "label", "confidence", "error", "label_2", "confidence_2"} <= set(stored[0])


def test_rows_that_are_not_all_taken_leave_no_file(model, images, tmp_path):
    from kcv import predict

    rows = predict(_files(images), model, output=tmp_path / "rows.csv")
    next(rows)
    rows.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_before_any_work(model, images, tmp_path):
    from kcv import predict

    with pytest.raises(UsageError, match=r"ends in \.csv, \.jsonl, \.parquet\. Did you mean '\.jsonl'"):
        predict(_files(images), model, output=tmp_path / "rows.json")
    with pytest.raises(DataError, match="no such file"):
        predict("nowhere.png", model)
    with pytest.raises(ArtifactError, match="no such model file"):
        predict(_files(images), tmp_path / "nowhere.keras")


def _odd_images(folder):
    """Writes an image of every odd kind; returns their paths."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = rough.resize((150, 110), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray((np.asarray(smooth.convert("L"), np.uint16) * 257).astype(np.uint16))
    palette = smooth.quantize(16)
    palette.info["transparency"] = 3
    frames = [smooth, smooth.rotate(90)]
    save = {
        "grey.jpg": (smooth.convert("L"), {}),
        "palette.png": (palette, {"transparency": 3}),
        "sixteen.png": (grey16, {}),
        "cmyk.jpg": (smooth.convert("CMYK"), {}),
        "rotated.jpg": (smooth, {"exif": exif}),
        "web.webp": (smooth, {"lossless": True}),
        "moving.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "one.png": (smooth.resize((1, 1)), {}),
        "thin.png": (smooth.resize((1, 4000)), {}),
        "huge.jpg": (smooth.resize((5000, 3400)), {}),
        "alpha.png": (smooth.convert("RGBA").rotate(20), {}),
    }
    for name, (image, options) in save.items():
        image.save(folder / name, **options)
    return [folder / name for name in save]


def test_onnx_and_keras_say_the_same_of_every_kind_of_image(model, exported, tmp_path):
    from kcv import predict

    paths = _odd_images(tmp_path)
    ours, theirs = (list(predict(paths, one)) for one in (exported.path, model))
    assert len(ours) == len(theirs) == len(paths)
    for row, other in zip(ours, theirs, strict=True):
        assert (row["path"], row["label"], row["error"]) == (other["path"], other["label"], "")
        for name, probability in row["probabilities"].items():
            assert probability == pytest.approx(other["probabilities"][name], abs=1e-5)
    (alone,) = predict(paths[0], exported.path)
    assert alone["confidence"] == pytest.approx(ours[0]["confidence"], abs=1e-6)
    assert "label_3" in alone


def test_a_folder_stands_for_its_own_images_and_recursively_for_all(exported, images):
    from kcv import predict

    assert len(list(predict(images / "test" / "top", exported.path))) == 8
    with pytest.raises(DataError, match="no images there, only in folders below it; --recursive takes those"):
        predict(images / "test", exported.path)
    assert len(list(predict(images / "test", exported.path, recursive=True))) == 24


@pytest.mark.parametrize("kind", ["keras", "onnx"])
def test_an_endless_list_is_taken_as_it_comes_and_in_order(model, exported, images, kind):
    from kcv import predict

    files = _files(images)
    taken = []

    def endless():
        for path in itertools.cycle(files):
            taken.append(path)
            yield path

    classifier = model if kind == "keras" else exported.path
    rows = predict(endless(), classifier, batch_size=4)
    first = [row["path"] for row in itertools.islice(rows, 100)]
    rows.close()
    assert first == [str(path) for path in taken[:100]]
    # A few batches ahead and no more, on any number of cores.
    assert len(taken) <= 100 + 4 * (2 * usable_cores() + 3)


def test_listed_paths_that_are_no_images_are_rows(exported, images, tmp_path):
    from kcv import predict

    good = _files(images)[0]
    rows = list(predict(iter([tmp_path / "gone.png", good, tmp_path]), exported.path))
    assert [bool(row["error"]) for row in rows] == [True, False, True]
    assert "no such file" in rows[0]["error"]
    with pytest.raises(DataError, match="no images were named"):
        predict(iter([]), exported.path)


def test_the_onnx_way_imports_nothing_heavy(exported, images, tmp_path):
    script = (
        "import sys; from kcv import cli; "
        "assert cli.main(sys.argv[1:]) == 0; print(*sorted(sys.modules), file=sys.stderr)"
    )
    words = ["predict", str(images / "test"), "--recursive", f"--model={exported.path}", f"--output={tmp_path}/r.csv"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert {"onnxruntime", "numpy", "PIL"} <= loaded
    heavy = {"keras", "torch", "torchvision", "mlflow", "matplotlib", "sklearn", "scipy", "pandas", "pyarrow", "onnx"}
    assert loaded & (heavy | {"tensorflow", "sympy", "h5py"}) == set()
