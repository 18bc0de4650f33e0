"""Prediction: rows in order, bad pictures among good ones, and the files that rows go to."""

import csv
import json

import numpy as np
import pytest

from kcv.errors import ArtifactError, DataError, UsageError


@pytest.fixture(scope="module")
def model(trained_run):
    from kcv import load_model

    return load_model(trained_run.model_path)


def _files(pictures):
    return sorted((pictures / "test").rglob("*.png"))


def test_rows_come_in_order_and_say_what_the_model_says(model, pictures):
    from kcv import predict

    files = _files(pictures)
    rows = list(predict([str(pictures / "test")], model, batch_size=5))
    assert [row["path"] for row in rows] == [str(path) for path in files]
    expected = model.predict(files)
    np.testing.assert_allclose([row["confidence"] for row in rows], expected.max(axis=1), rtol=1e-4)
    assert [row["label"] for row in rows] == [model.class_names[i] for i in expected.argmax(axis=1)]
    assert all(set(row) == {"path", "label", "confidence", "error", "probabilities"} for row in rows)
    assert np.mean([row["label"] in row["path"] for row in rows]) > 0.9


def test_a_single_picture_is_ranked(model, pictures):
    from kcv import predict

    (row,) = predict(str(_files(pictures)[0]), model)
    assert [row["label"], row["label_2"], row["label_3"]] == sorted(
        model.class_names, key=lambda name: -row["probabilities"][name]
    )
    assert row["confidence"] >= row["confidence_2"] >= row["confidence_3"]
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    (short,) = predict(str(_files(pictures)[0]), model, top_k=1)
    assert "label_2" not in short


def test_a_bad_picture_is_a_row_and_the_others_still_come(model, pictures, tmp_path):
    from kcv import predict

    bad = tmp_path / "broken, or not.png"
    bad.write_bytes(b"\x89PNG nothing more")
    first, last = _files(pictures)[:2]
    rows = list(predict([first, bad, last], model, batch_size=2))
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert rows[1]["label"] is None
    assert str(bad) in rows[1]["error"]


def test_only_bad_pictures_are_rows_too(model, tmp_path):
    from kcv import predict

    (tmp_path / "a.jpg").write_bytes(b"")
    (row,) = predict(tmp_path / "a.jpg", model)
    assert row["error"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_hold_the_rows(model, pictures, tmp_path, suffix):
    from kcv import predict

    bad = tmp_path / 'quote " comma ,.png'
    bad.write_bytes(b"nothing")
    output = tmp_path / "out" / f"rows{suffix}"
    rows = list(predict([*_files(pictures)[:3], bad], model, top_k=2, output=output, batch_size=2))
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


def test_rows_that_are_not_all_taken_leave_no_file(model, pictures, tmp_path):
    from kcv import predict

    rows = predict(_files(pictures), model, output=tmp_path / "rows.csv")
    next(rows)
    rows.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_before_any_work(model, pictures, tmp_path):
    from kcv import predict

    with pytest.raises(UsageError, match=r"ends in \.csv, \.jsonl, \.parquet\. Did you mean '\.jsonl'"):
        predict(_files(pictures), model, output=tmp_path / "rows.json")
    with pytest.raises(DataError, match="no such file"):
        predict("nowhere.png", model)
    with pytest.raises(ArtifactError, match="no such model file"):
        predict(_files(pictures), tmp_path / "nowhere.keras")
