"""Evaluation: the figures of training again, other data by name, and files that say the same as the figures."""

import csv
import json
import shutil

import numpy as np
import pytest

from kcv import artifact
from kcv.errors import ArtifactError, DataError, OutputError
from kcv.inference.keras_model import LoadedModel
from kcv.metrics.temperature import softmax


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of a finished run that a test may write to."""
    folder = tmp_path / "run"
    shutil.copytree(trained_run.directory, folder)
    return folder


def _rows(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_it_repeats_the_figures_of_training_to_the_last_digit(run):
    from kcv import evaluate

    result = evaluate(run / "model.keras", plots=False)
    assert result.metrics == json.loads((run / "metrics.json").read_text())
    assert result.directory == run / "evaluation"
    assert (result.directory / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_the_files_agree_with_the_figures(run):
    from kcv import evaluate

    for suffix in ("png", "svg"):
        (run / "evaluation" / f"mistakes.{suffix}").touch()  # of an evaluation that found some
    result = evaluate(run / "model.keras")
    assert {entry.name for entry in result.directory.iterdir()} == {
        "metrics.json", "mistakes.json", "report.html", "per_class.csv", "confusion_matrix.csv",
        "confusion_matrix_normalized.csv",
        *(f"{name}.{kind}" for kind in ("png", "svg") for name in (
            "confusion_matrix", "confusion_matrix_normalized", "roc", "reliability", "learning_curves",
        )),
    }  # fmt: skip
    header, *rows = _rows(result.directory / "confusion_matrix.csv")
    assert header == ["true class", "centre", "left", "top"]
    matrix = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert matrix.sum() == result.metrics["n"]
    assert matrix.trace() / matrix.sum() == result.metrics["accuracy"]
    table = {row[0]: row[1:] for row in _rows(result.directory / "per_class.csv")[1:]}
    assert float(table["left"][1]) == result.metrics["per_class"]["left"]["recall"]


def test_without_plots_there_are_tables_alone_and_none_of_an_evaluation_before(run):
    from kcv import evaluate

    assert list((run / "evaluation").glob("*.png"))
    result = evaluate(run / "model.keras", plots=False)
    assert {entry.suffix for entry in result.directory.iterdir()} == {".json", ".csv", ".html"}
    assert result.metrics == json.loads((run / "metrics.json").read_text())


def test_splits_and_other_data_go_to_folders_of_their_own(run, images, tmp_path):
    from kcv import evaluate

    assert evaluate(run / "model.keras", plots=False, split="val").directory == run / "evaluation-val"
    other = tmp_path / "other photos"
    shutil.copytree(images / "test" / "left", other / "left")
    shutil.copytree(images / "test" / "top", other / "top")
    result = evaluate(run / "model.keras", plots=False, data=str(other))
    assert result.directory == run / "evaluation-other-photos-test"
    assert result.metrics["n"] == 16
    assert result.metrics["per_class"]["centre"]["support"] == 0
    assert result.metrics["per_class"]["centre"]["recall"] is None


def test_calibration_is_fitted_again_and_kept_in_the_file(run, tmp_path):
    from kcv import evaluate, load_model

    path = tmp_path / "model.keras"
    shutil.copy(run / "model.keras", path)
    before = load_model(path)
    result = evaluate(path, plots=False, abstain_precision=0.5, output_dir=tmp_path / "out")
    after = load_model(path)
    assert after.calibration.temperature == before.calibration.temperature  # training fitted the same
    assert before.threshold is None
    assert after.calibration.wanted_precision == 0.5
    assert after.threshold == result.metrics["abstention"]["threshold"]
    assert after.info.metrics == result.metrics
    for one, other in zip(before.keras_model.weights, after.keras_model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_sets_are_fitted_on_validation_and_measured_on_the_test_split(run, tmp_path, images):
    from kcv import evaluate, load_model, predict
    from kcv.inference import splits
    from kcv.metrics.conformal import fit_sets

    path = run / "model.keras"
    figures = evaluate(path, plots=False, coverage=0.9).metrics
    after = load_model(path)
    val = splits.load_split(after, "val")
    assert after.sets == fit_sets(after.calibration.probabilities(after.logits(val)), val.labels, 0.9)
    assert figures["prediction_sets"]["least"] == after.sets.least
    assert after.info.metrics == figures
    rows = list(predict(images / "test", after, recursive=True, output=tmp_path / "rows.csv"))
    covered = np.mean([row["path"].split("/")[-2] in row["prediction_set"] for row in rows])
    assert covered == figures["prediction_sets"]["coverage"]
    assert np.mean([len(row["prediction_set"]) for row in rows]) == figures["prediction_sets"]["mean_size"]
    with (tmp_path / "rows.csv").open(newline="") as stream:
        assert [json.loads(row["prediction_set"]) for row in csv.DictReader(stream)] == [
            row["prediction_set"] for row in rows
        ]
    assert "sets for 90%" in (run / "evaluation" / "report.html").read_text()


def test_what_is_calibrated_again_is_what_was_asked_for(run):
    from kcv import evaluate, load_model

    path = run / "model.keras"
    evaluate(path, plots=False, abstain_precision=0.5)
    evaluate(path, plots=False, coverage=0.8)
    both = load_model(path)
    assert (both.calibration.wanted_precision, both.sets.wanted_coverage) == (0.5, 0.8)
    evaluate(path, plots=False, abstain_precision=0.4)
    again = load_model(path)
    assert (again.calibration.wanted_precision, again.sets) == (0.4, both.sets)
    evaluate(path, plots=False, calibrate=True)
    plain = load_model(path)
    assert (plain.threshold, plain.sets) == (None, None)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"0\.99 needs 99 or more validation images, and there are 24"):
        evaluate(path, plots=False, coverage=0.99)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["keras", pytest.param("onnx", marks=pytest.mark.full)])
def test_answers_below_the_threshold_of_the_file_are_unsure(kind, run, tmp_path, images):
    from kcv import export, load_model, predict

    file = tmp_path / "model.keras"
    shutil.copy(run / "model.keras", file)
    before = load_model(file)
    # A threshold that most answers fall below, in the model file and in the file exported from it.
    strict = before.info.calibration.model_copy(
        update={"threshold": 0.9999, "wanted_precision": 0.5, "temperature": 9.0}
    )
    artifact.describe_again(file, before.info.model_copy(update={"calibration": strict}))
    if kind == "onnx":
        file = export(file, tmp_path / "model.onnx").path
    files = sorted((images / "test").rglob("*.png"))
    rows = list(predict(files, file))
    assert {row["label"] for row in rows} == {"unsure"}
    plain = list(predict(files, file, threshold=0))
    assert "likeliest" not in plain[0]
    assert [row["likeliest"] for row in rows] == [row["label"] for row in plain]
    softer = softmax(np.log(before.predict(files)) * before.calibration.temperature, 9.0)
    np.testing.assert_allclose([list(row["probabilities"].values()) for row in rows], softer, atol=1e-5)


def test_a_precision_that_is_out_of_reach_leaves_the_file_alone(run, tmp_path, monkeypatch):
    from kcv import evaluate

    path = tmp_path / "model.keras"
    shutil.copy(run / "model.keras", path)
    content = path.read_bytes()
    monkeypatch.setattr("kcv.metrics.temperature.choose_threshold", lambda *_: None)
    with pytest.raises(DataError, match="reached at no threshold"):
        evaluate(path, plots=False, abstain_precision=1.0, output_dir=tmp_path / "out")
    assert path.read_bytes() == content
    assert not (tmp_path / "out").exists()


def test_the_validation_split_is_the_one_of_training(run):
    from kcv import evaluate

    history = _rows(run / "history.csv")
    column = history[0].index("val_accuracy")
    best = max(float(row[column]) for row in history[1:])
    assert evaluate(run / "model.keras", plots=False, split="val").metrics["accuracy"] == pytest.approx(best)


def test_classes_are_matched_by_name(run, images, tmp_path):
    from kcv import evaluate

    # Alone in a folder, `top` and `left` are classes 1 and 0; in the model they are 2 and 1.
    for name in ("left", "top"):
        shutil.copytree(images / "test" / name, tmp_path / "two" / name)
    whole = evaluate(run / "model.keras", plots=False).metrics["per_class"]
    part = evaluate(run / "model.keras", plots=False, data=str(tmp_path / "two")).metrics["per_class"]
    assert part["top"]["recall"] == whole["top"]["recall"]
    assert part["left"]["recall"] == whole["left"]["recall"]


def test_a_class_that_the_model_does_not_know_is_refused(run, images, tmp_path):
    from kcv import evaluate

    shutil.copytree(images / "test" / "left", tmp_path / "two" / "left")
    shutil.copytree(images / "test" / "top", tmp_path / "two" / "zebra")
    with pytest.raises(DataError, match="zebra"):
        evaluate(run / "model.keras", plots=False, data=str(tmp_path / "two"))


def test_a_carved_test_split_is_not_guessed_when_the_data_has_changed(configure, images, tmp_path):
    from kcv import evaluate
    from kcv.tasks.train import train

    flat = tmp_path / "flat"
    shutil.copytree(images / "train", flat)
    run = train(configure(data=str(flat), epochs=1))
    assert evaluate(run.model_path, plots=False).metrics == run.metrics
    next((flat / "left").glob("*.png")).unlink()
    with pytest.raises(DataError, match="has changed since the model was trained on it"):
        evaluate(run.model_path, plots=False)
    assert evaluate(run.model_path, plots=False, data=str(flat)).metrics["n"] == 89


@pytest.mark.full
def test_explanations_are_measured_on_request(run, monkeypatch):
    from kcv import evaluate
    from kcv.saliency import trust

    monkeypatch.setattr(trust, "MOST_EXPLAINED", 6)
    result = evaluate(run / "model.keras", plots=False, explain=True)
    assert result.explanations["pictures"] == 6
    assert json.loads((result.directory / "explanations.json").read_text()) == result.explanations
    methods = result.explanations["methods"]
    assert {"gradcam", "gradcam++", "random"} <= methods.keys()
    assert all(0 <= methods["gradcam"][key] <= 1 for key in ("deletion_auc", "insertion_auc", "flat"))
    assert "rank_correlation" in methods["gradcam"] and "rank_correlation" not in methods["random"]
    assert evaluate(run / "model.keras", plots=False).explanations is None


def _redescribed(run, path, **data):
    """Writes the run's model with other values in the section `data` of its configuration."""
    shutil.copy(run / "model.keras", path)
    info = artifact.read_info(path)
    config = {**info.config, "data": {**info.config["data"], **data}}
    artifact.describe_again(path, info.model_copy(update={"config": config}))
    return path


@pytest.mark.full
def test_a_folder_that_only_a_file_names_is_not_measured(run, images, tmp_path):
    from kcv import compare, evaluate, export

    shutil.copytree(images, tmp_path / "private")
    (tmp_path / "private" / "test" / "left" / "000.png").unlink()
    path = _redescribed(run, tmp_path / "m.keras", source=str(tmp_path / "private"))
    uses = (
        lambda: evaluate(path, plots=False, output_dir=tmp_path / "out"),
        lambda: evaluate(path, plots=False, calibrate=True, output_dir=tmp_path / "out"),
        lambda: export(path, tmp_path / "m.onnx"),
        lambda: compare([path, run], output=tmp_path / "out"),
    )
    for use in uses:
        with pytest.raises(DataError, match="Only the model's file names it; name it to use it: --data="):
            use()
    assert not (tmp_path / "out").exists() and not (tmp_path / "m.onnx").exists()
    # The same images elsewhere are what the model was trained on; other ones only have to be named.
    found = evaluate(path, plots=False, data=str(tmp_path / "private"), output_dir=tmp_path / "out")
    assert found.metrics["n"] == 23


def test_the_training_data_is_found_wherever_the_model_file_lies(run, images, tmp_path):
    from kcv import evaluate

    shutil.copytree(images, tmp_path / "moved")
    path = _redescribed(run, tmp_path / "m.keras", source=str(tmp_path / "moved"))
    assert evaluate(path, plots=False, output_dir=tmp_path / "out").metrics["n"] == 24


def test_a_configuration_of_many_unknown_keys_is_one_line(run, tmp_path):
    from kcv import evaluate

    path = tmp_path / "m.keras"
    shutil.copy(run / "model.keras", path)
    info = artifact.read_info(path)
    config = {**info.config, **{f"key_{number}": 1 for number in range(50)}}
    artifact.describe_again(path, info.model_copy(update={"config": config}))
    with pytest.raises(ArtifactError, match=r"its configuration cannot be used: .*key_0.* \(and 49 more\)$"):
        evaluate(path, plots=False, output_dir=tmp_path / "out")


def test_a_link_beside_the_model_is_not_written_through(run, images, tmp_path):
    from kcv import evaluate, explain

    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(run / "evaluation")
    for name in ("evaluation", "explanations"):
        (run / name).symlink_to(outside)
    with pytest.raises(OutputError, match="evaluation: is a link"):
        evaluate(run / "model.keras", plots=False)
    with pytest.raises(OutputError, match="explanations: is a link"):
        explain(images / "test" / "left", run / "model.keras")
    assert list(outside.iterdir()) == []


def test_a_damaged_history_does_not_cost_the_figures(run, caplog):
    from kcv import evaluate

    (run / "history.csv").write_bytes(b"\xff")
    assert evaluate(run / "model.keras", plots=False).metrics == json.loads((run / "metrics.json").read_text())
    assert "history.csv: is not the history of a run" in caplog.text


def test_training_measures_in_the_precision_in_which_the_file_answers(configure):
    from kcv import evaluate
    from kcv.inference.opening import load
    from kcv.inference.splits import load_split
    from kcv.tasks.train import train

    run = train(configure(precision="mixed_bfloat16", epochs=1))
    loaded = load(run.model_path)
    images = load_split(loaded, "test")
    answers = loaded.predict([images.read(i) for i in range(len(images))])
    assert run.metrics["accuracy"] == (answers.argmax(axis=1) == images.labels).mean()
    true = answers[np.arange(len(answers)), images.labels]
    assert run.metrics["log_loss"] == pytest.approx(-np.log(true).mean(), rel=1e-5)
    assert evaluate(run.model_path, plots=False).metrics == run.metrics


@pytest.mark.full
def test_the_confusion_of_very_many_classes_is_written_by_the_cells_that_occur(run, monkeypatch, caplog):
    from kcv import evaluate

    whole = evaluate(run / "model.keras", plots=False)
    header, *rows = _rows(whole.directory / "confusion_matrix.csv")
    expected = {(row[0], name): int(n) for row in rows for name, n in zip(header[1:], row[1:], strict=True) if n != "0"}
    with caplog.at_level("INFO", logger="kcv"), monkeypatch.context() as fewer:
        fewer.setattr("kcv.reporting.evaluation_files.MOST_IN_MATRIX", 2)
        result = evaluate(run / "model.keras", plots=True)
    assert "3 classes are too many for a confusion matrix" in caplog.text
    assert not list(result.directory.glob("confusion_matrix*"))
    assert result.metrics == whole.metrics
    header, *rows = _rows(result.directory / "confusion_cells.csv")
    assert header == ["true class", "predicted class", "pictures", "share of the true class"]
    assert {(true, predicted): int(n) for true, predicted, n, _ in rows} == expected
    assert all(float(share) == int(n) / result.metrics["per_class"][true]["support"] for true, _, n, share in rows)
    assert not (evaluate(run / "model.keras", plots=False).directory / "confusion_cells.csv").exists()


def _refused(run, **options):
    """Evaluates a run in such a way that there are mistakes to draw, and returns what it is refused for."""
    from kcv import evaluate
    from kcv.errors import KcvError

    with pytest.raises(KcvError) as caught:
        evaluate(run / "model.keras", **options)
    return caught.value


@pytest.fixture
def mistaken(monkeypatch):
    """Makes a model mistake every image for the next class: then there are mistakes to draw."""
    right = LoadedModel.logits
    monkeypatch.setattr(LoadedModel, "logits", lambda *args, **options: np.roll(right(*args, **options), 1, axis=1))


@pytest.mark.full
def test_a_model_that_cannot_be_explained_is_told_as_one(run, mistaken, monkeypatch):
    def fails(*args, **options):
        raise RuntimeError("no gradient")

    monkeypatch.setattr("kcv.saliency.explainer.Explainer.explain", fails)
    assert str(_refused(run)) == f"{run / 'model.keras'}: cannot be explained (no gradient)"
    assert "cannot be explained (no gradient)" in str(_refused(run, plots=False, explain=True))


def test_a_full_disk_is_not_told_as_a_fault_of_the_model(run, mistaken, monkeypatch):
    from matplotlib.figure import Figure

    def full(figure, to, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    refused = _refused(run)
    assert isinstance(refused, OutputError)
    assert str(refused).endswith("confusion_matrix.png: No space left on device")


def test_what_an_earlier_evaluation_left_and_cannot_be_removed_is_one_line(run):
    (run / "evaluation" / "roc.png").unlink()
    (run / "evaluation" / "roc.png").mkdir()
    refused = _refused(run, plots=False)
    assert isinstance(refused, OutputError)
    assert str(refused).startswith(f"cannot remove {run / 'evaluation' / 'roc.png'}: ")


def test_a_fault_in_a_plot_stays_a_fault_of_kcv(run, mistaken, monkeypatch):
    from kcv import evaluate

    def broken(*args, **options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("kcv.reporting.plots.save_gradcam_grid", broken)
    with pytest.raises(ZeroDivisionError):
        evaluate(run / "model.keras")
