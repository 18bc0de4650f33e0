"""The formats beside ONNX: each says what the model says, describes itself, and is read as a stranger's file."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from kcv import evaluate, export, load_model, predict
from kcv.cli import main
from kcv.cli.specification import find_verb
from kcv.data import loading
from kcv.errors import ArtifactError, DataError, ParityError, UsageError
from kcv.exporting import formats
from kcv.exporting.formats import Format, Source
from kcv.inference.classifier import open_classifier
from kcv.inference.exported import ExportedInfo
from kcv.inference.runtimes import runtime_of
from kcv.tasks.info import info

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

pytestmark = pytest.mark.usefixtures("kept_graphs")


GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "deploy.md"


def lines_of_the_guide(word: str) -> str:
    """Returns the block of Python in the guide that holds a word."""
    blocks = re.findall(r"```py\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if word in block)
    return str(found)


@pytest.fixture(scope="module")
def archive(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The model as an archive of torch.export."""
    return export(trained_run.model_path, tmp_path_factory.mktemp("torch") / "model.pt2", to="torch")


@pytest.fixture(scope="module")
def vino(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The model in OpenVINO's format."""
    pytest.importorskip("openvino", reason="needs the extra kcv[openvino]")
    return export(trained_run.model_path, tmp_path_factory.mktemp("openvino") / "model.xml", to="openvino")


@pytest.mark.full
@pytest.mark.long
@pytest.mark.xfail(raises=ParityError, strict=True, reason="litert-torch 0.10 converts the custom CNN to other logits")
def test_a_file_of_litert_says_what_the_model_says(trained_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="needs litert-torch")
    from ai_edge_litert.interpreter import Interpreter

    made = export(trained_run.model_path, tmp_path / "model.tflite", to="litert")
    model = load_model(trained_run.model_path)
    interpreter = Interpreter(str(made.path))
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    pixels = np.random.default_rng(0).integers(0, 256, (1, model.image_size, model.image_size, 3), dtype=np.uint8)
    interpreter.set_tensor(given["index"], pixels)
    interpreter.invoke()
    _, probabilities = (interpreter.get_tensor(out["index"]) for out in interpreter.get_output_details())
    np.testing.assert_allclose(probabilities, model.predict_pixels(pixels), atol=1e-5)
    described = info(made.path).content
    assert isinstance(described, ExportedInfo) and described.class_names == model.class_names
    with pytest.raises(UsageError, match="is not run by kcv"):
        open_classifier(made.path)


def test_the_command_line_offers_what_is_registered() -> None:
    flag = find_verb("export").flags["to"]
    assert flag.choices == formats.names()
    assert flag.default == "onnx" == flag.choices[0]
    assert {"openvino", "torch", "litert", "coreml"} < set(flag.choices)


@pytest.mark.full
@pytest.mark.long
def test_an_archive_of_torch_says_what_the_model_says(archive: Export, trained_run: Run, images: Path) -> None:
    import torch

    model = load_model(trained_run.model_path)
    extra = {"kcv.json": ""}
    program = torch.export.load(archive.path, extra_files=extra).module()
    texts = json.loads(extra["kcv.json"])
    assert tuple(json.loads(texts["class_names"])) == model.class_names
    pixels = np.random.default_rng(0).integers(0, 256, (5, model.image_size, model.image_size, 3), dtype=np.uint8)
    for count in (1, 5):
        _, probabilities = program(torch.from_numpy(pixels[:count]))
        np.testing.assert_allclose(probabilities.detach(), model.predict_pixels(pixels[:count]), atol=1e-5)
    assert archive.parity.agreement == 1


@pytest.mark.full
@pytest.mark.long
def test_the_lines_of_the_guide_open_an_archive(archive: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive.path.parent)
    found: dict[str, Any] = {}
    exec(lines_of_the_guide("torch.export.load"), found)
    assert found["names"] == ["centre", "left", "top"]
    assert float(found["probabilities"].sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.full
def test_an_archive_of_torch_describes_itself_and_is_not_run(
    archive: Export, exported: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    described = info(archive.path).content
    assert described == info(exported.path).content
    assert main(["info", str(archive.path)]) == 0
    assert "torch.export" in capsys.readouterr().out
    assert main(["predict", "docs/digit.png", f"--model={archive.path}"]) == 2
    told = capsys.readouterr().err
    assert "torch evaluates expressions in it" in told and told.count("\n") == 1
    with pytest.raises(ArtifactError, match=r"is an exported file \(torch\.export\); here the \.keras file"):
        load_model(archive.path)


@pytest.mark.full
def test_an_archive_that_is_none_of_kcvs_is_refused(archive: Export, tmp_path: Path) -> None:
    def changed(change: Callable[[dict[str, bytes]], None]) -> Path:
        with zipfile.ZipFile(archive.path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        change(members)
        path = tmp_path / "changed.pt2"
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        return path

    with zipfile.ZipFile(archive.path) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/extra/kcv.json"))
    assert info(changed(lambda members: None)).content == info(archive.path).content
    for change, words in (
        (lambda members: members.pop(name), "was not exported by kcv"),
        (lambda members: members.update({name: b"[]"}), "its description is damaged"),
        (lambda members: members.update({name: b'{"kcv_format": 1}'}), "its description is damaged"),
        (lambda members: members.update({"../escape/x": b""}), "which no model file has"),
        (lambda members: members.update({"other/extra/kcv.json": b"{}"}), "was not exported by kcv"),
    ):
        with pytest.raises(ArtifactError, match=words):
            info(changed(change))


def test_format_may_name_the_format_of_the_file(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(formats, "find", lambda name: asked.append(name) or pytest.fail("enough"))
    for words in (["--format=torch"], ["--to=torch", "--format=json"], ["--format=json"]):
        with pytest.raises(pytest.fail.Exception, match="enough"):
            export_words = ["export", str(trained_run.model_path), *words]
            _run(export_words)
    assert asked == ["torch", "torch", "onnx"]
    assert main(["export", str(trained_run.model_path), "--format=torch", "--to=torch"]) == 2
    assert "give one" in capsys.readouterr().err
    assert main(["export", str(trained_run.model_path), "--format=pdf"]) == 2
    assert "allowed: text, json" in capsys.readouterr().err
    assert main(["predict", "a.png", "--model=m", "--format=torch"]) == 2


def _run(words: list[str]) -> None:
    from kcv.cli.parsing import parse
    from kcv.cli.specification import function_of

    call = parse(find_verb(words[0]), words[1:])
    function_of(words[0])(**call.arguments)


def test_what_a_format_does_not_have_is_refused_in_one_line(trained_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--precision: allowed with --to=onnx only, not with torch"):
        export(trained_run.model_path, tmp_path / "m.pt2", to="torch", precision="int8")
    with pytest.raises(UsageError, match=r"--heatmaps: allowed with --to=onnx only"):
        export(trained_run.model_path, tmp_path / "m.pt2", to="torch", heatmaps=True)
    with pytest.raises(UsageError, match=r"--opset: allowed with --to=onnx and openvino only, not with torch"):
        export(trained_run.model_path, tmp_path / "m.pt2", to="torch", opset=18)
    with pytest.raises(UsageError, match=r"allowed: a name that ends in \.pt2"):
        export(trained_run.model_path, tmp_path / "m.onnx", to="torch")
    with pytest.raises(UsageError, match="allowed: onnx, coreml"):
        export(trained_run.model_path, to="pdf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["coreml", "litert", "openvino"])
def test_a_format_whose_package_is_missing_says_which(
    trained_run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without(module: str, package: str | None = None) -> Any:
        if module.partition(".")[0] in ("openvino", "litert_torch", "coremltools"):
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(module, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UsageError, match=rf"^--to={name}: needs (openvino|litert_torch|macOS)\b"):
        export(trained_run.model_path, tmp_path / f"m{formats.find(name).suffix}", to=name)
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class _Wrong:
    """A file that gives other logits than its model."""

    path: Path

    def compute(self, batch: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        logits = np.tile(np.float32([1, 2, 3]), (len(batch), 1))
        return logits, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def logits(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self.compute(pixels)[0]


def test_no_format_goes_past_the_parity_check(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(source: Source, path: Path) -> tuple[str, ...]:
        path.write_text("graph")
        path.with_suffix(".weights").write_text("weights")
        return (".weights",)

    monkeypatch.setitem(formats._FORMATS, "toy", Format("toy", "Toy", ".toy", write, _Wrong))
    with pytest.raises(ParityError, match="does not say what the model says"):
        export(trained_run.model_path, tmp_path / "model.toy", to="toy")
    assert list(tmp_path.iterdir()) == []


def test_openvino_says_what_the_model_says(vino: Export, trained_run: Run, images: Path) -> None:
    model, ours = load_model(trained_run.model_path), open_classifier(vino.path)
    files = sorted((images / "test").rglob("*.png"))
    np.testing.assert_allclose(ours.predict(files), model.predict(files), atol=1e-5)
    np.testing.assert_allclose(open_classifier(vino.path, threads=1).predict(files), model.predict(files), atol=1e-5)
    rows = list(predict(images / "test", vino.path, recursive=True))
    assert len(rows) == len(files) and not any(row["error"] for row in rows)
    assert [path.name for path in vino.beside] == ["model.bin"]
    assert vino.bytes == sum(path.stat().st_size for path in (vino.path, *vino.beside))


def test_openvino_describes_itself(vino: Export, exported: Export, capsys: pytest.CaptureFixture[str]) -> None:
    assert info(vino.path).content == info(exported.path).content
    assert main(["info", str(vino.path)]) == 0
    assert "OpenVINO" in capsys.readouterr().out


def test_the_lines_of_the_guide_run_openvino(vino: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(vino.path.parent)
    found: dict[str, Any] = {}
    exec(lines_of_the_guide("openvino.Core"), found)
    assert found["names"] == ["centre", "left", "top"]
    assert float(found["probabilities"].sum()) == pytest.approx(1, abs=1e-6)


def test_weights_of_another_export_are_refused(vino: Export, tmp_path: Path) -> None:
    for path in (vino.path, *vino.beside):
        shutil.copy(path, tmp_path)
    weights = tmp_path / "model.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.bin: is not the one that belongs to model\.xml"):
        info(tmp_path / "model.xml")
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"model\.bin: no such file"):
        info(tmp_path / "model.xml")


def test_runtimes_are_found_by_the_suffix() -> None:
    assert {suffix: runtime_of(f"m{suffix.upper()}") is not None for suffix in (".onnx", ".xml", ".pt2", ".keras")} == {
        ".onnx": True, ".xml": True, ".pt2": True, ".keras": False,
    }  # fmt: skip


def test_evaluate_measures_an_exported_file_as_its_model(
    exported: Export, trained_run: Run, images: Path, tmp_path: Path
) -> None:
    ours = evaluate(exported.path, str(images), output_dir=tmp_path / "onnx", plots=False)
    theirs = evaluate(trained_run.model_path, str(images), output_dir=tmp_path / "keras", plots=False)
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.metrics["accuracy"] == theirs.metrics["accuracy"]
    assert (tmp_path / "onnx" / "metrics.json").is_file()


def test_evaluate_of_an_exported_file_refuses_what_needs_the_model(
    exported: Export, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (
        ([], "name them: --data=SOURCE"),
        ([f"--data={images}", "--tta=flip"], "--tta: needs model.keras"),
        ([f"--data={images}", "--calibrate"], "--calibrate: needs model.keras"),
        ([f"--data={images / 'train'}", "--split=val", f"--output_dir={tmp_path}"], ""),
    ):
        code = main(["evaluate", str(exported.path), "--plots=false", *words])
        assert code == (2 if told else 0)
        assert told in capsys.readouterr().err
    shutil.copytree(images / "train", tmp_path / "flat")
    flat = loading.open_source(str(tmp_path / "flat")).fingerprint
    graph = onnx.load(exported.path)
    known = {prop.key: prop.value for prop in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**known, "data_fingerprint": flat})
    onnx.save(graph, tmp_path / "own.onnx")
    with pytest.raises(DataError, match=r"own\.onnx was trained on it, and does not know which images"):
        evaluate(tmp_path / "own.onnx", str(tmp_path / "flat"), plots=False)


@pytest.mark.full
def test_evaluate_measures_openvinos_file_with_plots(vino: Export, images: Path) -> None:
    done = evaluate(vino.path, str(images))
    assert done.directory.name == "evaluation-images-test-xml"
    assert (done.directory / "confusion_matrix.png").is_file()
