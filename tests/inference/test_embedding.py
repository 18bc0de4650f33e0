"""Feature vectors: the same from both kinds of file, the head's input, and files that are read back within limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx_by_hand import network

from kcv import embed, load_model, predict, similar
from kcv.data import loading
from kcv.errors import ArtifactError, DataError, UsageError
from kcv.inference.embedding import open_embedder
from kcv.inference.onnx_features import dense_input, with_output
from kcv.inference.onnx_graph import read_graph
from kcv.inference.picking import POOL, Picker, k_centre, unit_vectors
from kcv.inference.vector_file import Origin, VectorFile, open_vectors

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

ORIGIN = Origin(weights_sha256="ab" * 32, precision="float32", width=3)


def files_of(images: Path) -> list[Path]:
    return sorted((images / "test").rglob("*.png"))


@pytest.fixture(scope="module")
def vectors(exported: Export, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of the test images."""
    path = tmp_path_factory.mktemp("vectors") / "vectors.parquet"
    list(embed(files_of(images), exported.path, output=path, batch_size=5))
    return path


def test_both_kinds_of_file_give_the_input_of_the_last_dense_layer(
    trained_run: Run, exported: Export, images: Path
) -> None:
    import keras

    model = load_model(trained_run.model_path)
    rows, others = (list(embed(files_of(images), path)) for path in (trained_run.model_path, exported.path))
    backbone = keras.Model(model.keras_model.input, model.keras_model.layers[-1].input)
    pixels = np.stack([np.asarray(loading_pixels(path)) for path in files_of(images)])
    expected = backbone(pixels, training=False).detach().cpu().numpy()
    for found in (rows, others):
        np.testing.assert_allclose(np.stack([row["vector"] for row in found]), expected, atol=1e-4)
        assert all(row["vector"].dtype == np.float32 for row in found)
    for row, other, answer in zip(rows, others, predict(files_of(images), model), strict=True):
        assert (row["path"], row["label"]) == (other["path"], other["label"]) == (answer["path"], answer["label"])
        assert row["confidence"] == pytest.approx(answer["confidence"], abs=1e-5)
        assert other["confidence"] == pytest.approx(answer["confidence"], abs=1e-5)
    origins = [open_embedder(Path(path)).origin for path in (trained_run.model_path, exported.path)]
    assert origins[0] == origins[1], "one may be compared with the other"


def loading_pixels(path: Path) -> np.ndarray:
    from kcv import images

    return images.load(path, 16, "squash")


def test_a_file_holds_the_rows_and_what_they_are_of(exported: Export, images: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    bad, path = tmp_path / "bad.png", tmp_path / "out" / "vectors.parquet"
    bad.write_bytes(b"nothing")
    rows = list(embed([*files_of(images)[:4], bad], exported.path, output=path, batch_size=2))
    assert [bool(row["error"]) for row in rows] == [False] * 4 + [True]
    assert rows[-1]["vector"] is None
    table = parquet.read_table(path)
    assert table.column_names == ["path", "vector", "label", "confidence", "error"]
    stored = table.to_pylist()
    assert [row["path"] for row in stored] == [row["path"] for row in rows]
    np.testing.assert_array_equal(np.array(stored[2]["vector"], np.float32), rows[2]["vector"])
    assert (stored[-1]["vector"], stored[-1]["error"]) == (None, rows[-1]["error"])
    file = VectorFile(path)
    assert file.origin == open_embedder(exported.path).origin
    ((paths, labels, values),) = file.batches()
    assert list(paths) == [row["path"] for row in rows[:4]] and list(labels) == [row["label"] for row in rows[:4]]
    np.testing.assert_array_equal(values, np.stack([row["vector"] for row in rows[:4]]))


def test_rows_that_are_not_all_taken_leave_no_file(exported: Export, images: Path, tmp_path: Path) -> None:
    rows = embed(files_of(images), exported.path, output=tmp_path / "v.parquet", pick=2, pick_output=tmp_path / "l.csv")
    next(rows)
    rows.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_before_any_work(exported: Export, images: Path, tmp_path: Path) -> None:
    files = files_of(images)
    with pytest.raises(UsageError, match=r"--output: .*allowed: a name that ends in \.parquet"):
        embed(files, exported.path, output=tmp_path / "v.csv")
    with pytest.raises(UsageError, match=r"--pick_output: .*allowed: a name that ends in \.csv"):
        embed(files, exported.path, pick=3, pick_output=tmp_path / "v.txt")
    with pytest.raises(UsageError, match="pick: received 0"):
        embed(files, exported.path, pick=0)
    with pytest.raises(DataError, match="no such file"):
        embed("nowhere.png", exported.path)


def test_a_model_without_a_last_dense_layer_is_refused(exported: Export, tmp_path: Path) -> None:
    model = onnx.load(exported.path)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Relu", ["before"], ["logits"]))
    model.graph.node.sort(key=lambda node: "probabilities" in node.output)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match=r"m\.onnx: its last layer is no dense layer"):
        open_embedder(tmp_path / "m.onnx")


def test_a_graph_with_a_further_output_is_the_file_and_nothing_else(exported: Export) -> None:
    whole = exported.path.read_bytes()
    name = dense_input(read_graph(exported.path), "logits", "m.onnx")
    changed, before = onnx.load_from_string(with_output(whole, name)), onnx.load_from_string(whole)
    assert [output.name for output in changed.graph.output] == [*(o.name for o in before.graph.output), name]
    del changed.graph.output[-1]
    assert changed == before
    long = "x" * 5000  # a name whose length takes two bytes
    assert onnx.load_from_string(with_output(network(), long)).graph.output[-1].name == long


def test_the_most_similar_come_first_by_the_cosine(vectors: Path, exported: Export, images: Path) -> None:
    files = list(map(str, files_of(images)))
    ((paths, labels, values),) = VectorFile(vectors).batches()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit[3]), kind="stable")
    found = similar(files[3], vectors, top=5)
    assert [row["path"] for row in found.rows] == [paths[at] for at in order if at != 3][:5]
    assert found.compared == len(files) - 1
    for row in found.rows:
        at = paths.index(row["path"])
        assert row["similarity"] == pytest.approx(float(unit[at] @ unit[3]), abs=1e-5)
        assert row["label"] == labels[at]
    assert len(similar(files[0], vectors, top=999).rows) == len(files) - 1


def test_a_new_image_is_embedded_by_the_model_of_the_file_and_by_no_other(
    vectors: Path, exported: Export, trained_run: Run, undisturbed: Run, images: Path
) -> None:
    new = images / "val" / "top" / "000.png"
    with pytest.raises(UsageError, match=r"is not in .*; --model=MODEL names the model"):
        similar(new, vectors)
    by_onnx, by_keras = (similar(new, vectors, model=path, top=24) for path in (exported.path, trained_run.model_path))
    assert by_onnx.compared == by_keras.compared == 24
    ours, theirs = ({row["path"]: row["similarity"] for row in found.rows} for found in (by_onnx, by_keras))
    assert ours == pytest.approx(theirs, abs=1e-4)
    with pytest.raises(DataError, match="holds vectors of another model than"):
        similar(new, vectors, model=undisturbed.model_path)


def test_k_centre_takes_the_farthest_of_what_is_left() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 5)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = [0]
    while len(chosen) < 12:  # by its definition, in squared distances
        distances = ((unit[:, None] - unit[None, chosen]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(distances.argmax()))
    assert k_centre(vectors, 12) == chosen
    assert sorted(k_centre(vectors, 99)) == list(range(40))
    assert k_centre(np.zeros((3, 2), np.float32), 3) == [0, 1, 2]
    np.testing.assert_array_equal(unit_vectors(np.zeros((1, 2), np.float32)), 0)


def test_picked_images_are_among_the_least_confident_whatever_their_order() -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"path": str(n), "error": "", "confidence": float(c), "vector": rng.normal(size=4).astype(np.float32)}
        for n, c in enumerate(rng.permutation(200) / 200)
    ]
    least = sorted(rows, key=lambda row: row["confidence"])[: 3 * POOL]
    expected = [least[at]["path"] for at in k_centre(np.stack([row["vector"] for row in least]), 3)]
    for order in (rows, rows[::-1]):
        picker = Picker(3)
        for row in [*order, {"path": "bad", "error": "unreadable", "confidence": None, "vector": None}]:
            picker.add(row)
        assert [row["path"] for row in picker.picked()] == expected
    assert expected[0] == least[0]["path"]
    assert Picker(3).picked() == []


def test_the_list_to_label_is_a_label_file_once_it_has_labels(exported: Export, images: Path, tmp_path: Path) -> None:
    import csv
    import shutil

    folder = tmp_path / "new"
    shutil.copytree(images / "test", folder)
    listed = folder / "to_label.csv"
    list(embed(folder, exported.path, recursive=True, pick=6, pick_output=listed))
    text = listed.read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 6 and all(row["label"] == "" and row["likeliest"] for row in rows)
    assert all((folder / row["path"]).is_file() and not Path(row["path"]).is_absolute() for row in rows)
    header, *lines = text.splitlines()
    labelled = [line.replace(",,", f",{row['path'].split('/')[0]},") for line, row in zip(lines, rows, strict=True)]
    listed.write_text("\n".join([header, *labelled]))
    source = loading.open_source(str(listed))
    assert sum(len(split.labels) for split in source.splits.values()) == 6
    elsewhere = tmp_path / "lists" / "to_label.csv"
    list(embed(folder, exported.path, recursive=True, pick=6, pick_output=elsewhere))
    assert [row["path"] for row in csv.DictReader(elsewhere.read_text().splitlines())] == [row["path"] for row in rows]


def written(target: Path, *, metadata: object = ..., **columns: object) -> Path:
    """Writes a file of vectors by hand."""
    import pyarrow as pa
    from pyarrow import parquet

    made = {"path": pa.array(["a", "b"]), "vector": pa.array([[1, 2, 3], [3, 2, 1]], pa.list_(pa.float32())),
            "label": pa.array(["x", "y"])} | columns  # fmt: skip
    told = ORIGIN.model_dump_json() if metadata is ... else metadata
    table = pa.table(made)
    parquet.write_table(table.replace_schema_metadata({"kcv": told} if told is not None else None), target)
    return target


def odd_files() -> dict[str, tuple[dict[str, object], str]]:
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    return {
        "no metadata": ({"metadata": None}, "holds no feature vectors; `kcv embed` writes them"),
        "metadata of brackets": ({"metadata": "[" * 100_000}, "damaged"),
        "another hash": ({"metadata": ORIGIN.model_dump_json().replace("ab", "x/")}, "weights_sha256"),
        "a width of millions": ({"metadata": ORIGIN.model_dump_json().replace(":3}", ":99999999}")}, "width"),
        "shorter vectors": ({"vector": pa.array([[1, 2], [3, 2]], floats)}, "one has another length"),
        "one longer vector": ({"vector": pa.array([[1, 2, 3], [3, 2, 1, 0]], floats)}, "one has another length"),
        "a missing number": ({"vector": pa.array([[1, None, 3], [3, 2, 1]], floats)}, "one has another length"),
        "no number": ({"vector": pa.array([[1, float("nan"), 3], [3, 2, 1]], floats)}, "not finite"),
        "infinite": ({"vector": pa.array([[1, float("inf"), 3], [3, 2, 1]], floats)}, "not finite"),
        "doubles": ({"vector": pa.array([[1.0, 2, 3], [3, 2, 1]])}, "of other types"),
        "texts for vectors": ({"vector": pa.array(["a", "b"])}, "of other types"),
        "paths that are numbers": ({"path": pa.array([1, 2])}, "of other types"),
        "a missing path": ({"path": pa.array(["a", None])}, "a path or a label is missing or too long"),
        "a path of megabytes": ({"path": pa.array(["a", "b" * 2_000_000])}, "a path or a label is missing or too long"),
    }


@pytest.mark.parametrize("name", odd_files())
def test_an_odd_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    options, words = odd_files()[name]
    path = written(tmp_path / "v.parquet", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=words) as caught:
        similar("a", path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_sound_file_of_another_writer_is_read(tmp_path: Path) -> None:
    found = similar("a", written(tmp_path / "v.parquet"))
    assert [row["path"] for row in found.rows] == ["b"]
    assert found.rows[0]["similarity"] == pytest.approx(10 / 14)
    assert json.loads(json.dumps(found.to_dict()))["compared"] == 1
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        (tmp_path / "n.parquet").write_bytes(b"PAR1nothing")
        similar("a", tmp_path / "n.parquet")
    with pytest.raises(DataError, match=r"no such file|is no regular file"):
        similar("a", tmp_path / "none.parquet")


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_vectors(tmp_path / "v.parquet", ORIGIN):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
