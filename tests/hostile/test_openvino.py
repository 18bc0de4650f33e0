"""OpenVINO's files from strangers: what no classifier holds is refused, and OpenVINO itself is not needed for that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import pytest
from onnx_by_hand import INFO, SIZE
from openvino_by_hand import Pair, changed, network

from kcv.errors import ArtifactError
from kcv.inference.openvino_graph import WEIGHTS_DIGEST, read
from kcv.inference.openvino_model import OpenVinoModel, describe

Change = Callable[[Element], object]


def written(folder: Path, graph: bytes, weights: bytes) -> Path:
    (folder / "m.xml").write_bytes(graph)
    (folder / "m.bin").write_bytes(weights)
    return folder / "m.xml"


def refused(folder: Path, graph: bytes, weights: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        describe(written(folder, graph, weights))
    assert "\n" not in str(caught.value)


def layer(root: Element, kind: str) -> Element:
    return next(one for one in root.iter("layer") if one.get("type") == kind)


def data(root: Element, kind: str) -> Element:
    found = layer(root, kind).find("data")
    assert found is not None
    return found


def test_a_sound_pair_describes_itself(tmp_path: Path) -> None:
    graph, weights = network().files()
    path = written(tmp_path, graph, weights)
    assert describe(path) == INFO
    assert read(path).weights == weights


def test_what_openvino_gets_is_written_again_from_what_was_understood(tmp_path: Path) -> None:
    graph, weights = network().files()
    more = changed(graph, lambda root: SubElement(layer(root, "ReLU"), "blobs", offset="0", size="9"))
    again = read(written(tmp_path, more, weights)).xml()
    assert b"blobs" not in again and b"rt_info" not in again
    assert again == read(written(tmp_path, graph, weights)).xml()


def test_a_sound_pair_runs(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra kcv[openvino]")
    graph, weights = network().files()
    model = OpenVinoModel(written(tmp_path, graph, weights))
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    assert model.run(pixels)[1].shape == (3, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: layer(root, "ReLU").set("type", "Loop"), "runs the operation 'Loop', which no classifier needs"),
        (lambda root: layer(root, "ReLU").set("type", "ReadValue"), "runs the operation 'ReadValue'"),
        (lambda root: layer(root, "ReLU").set("version", "extension"), "runs the operation 'ReLU'"),
        (lambda root: data(root, "Const").set("offset", "99999999"), "weights whose content is not what it says"),
        (lambda root: data(root, "Const").set("offset", "-8"), "weights whose content is not what it says"),
        (lambda root: data(root, "Const").set("element_type", "string"), "weights of an unknown kind"),
        (lambda root: data(root, "Parameter").set("shape", "?,9999,9999,3"), "says two things of its input"),
        (lambda root: data(root, "MatMul").set("transpose_b", "perhaps"), "cannot be opened as an OpenVINO model"),
        (lambda root: data(root, "Convolution").set("strides", "1, 1"), "says something else"),
        (lambda root: data(root, "GroupConvolution").set("strides", "0, 0"), "cannot take what it is given"),
        (lambda root: data(root, "ReduceMean").set("keep_dims", "true"), "says something else|cannot take"),
        (lambda root: data(root, "Add").set("auto_broadcast", "pdpd"), "broadcasts in a way"),
        (lambda root: root.set("version", "10"), "is no graph of version 11"),
        (lambda root: root.find("edges").clear(), "an input that nothing gives"),  # type: ignore[union-attr]
        (lambda root: layer(root, "Parameter").set("id", "1"), "layers without a number of their own"),
        (lambda root: root.remove(root.find("rt_info")), "was not exported by kcv"),  # type: ignore[arg-type]
        (lambda root: layer(root, "Result").clear(), "."),
    ],
)
def test_a_graph_with_one_thing_wrong_is_refused_in_one_line(tmp_path: Path, change: Change, words: str) -> None:
    graph, weights = network().files()
    refused(tmp_path, changed(graph, change), weights, words)


def test_entities_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    graph, weights = network().files()
    bomb = b'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + graph
    refused(tmp_path, bomb, weights, "has a document type")
    refused(tmp_path, graph.replace(b"<edges>", b"<a>" * 50 + b"</a>" * 50 + b"<edges>"), weights, "more elements")
    refused(tmp_path, graph.decode().encode("utf-16"), weights, "cannot be opened as an OpenVINO model")
    refused(tmp_path, b"", weights, "cannot be opened as an OpenVINO model")


def test_weights_that_stand_in_many_layers_are_refused(tmp_path: Path) -> None:
    pair = network()
    count = 2_000_000
    pair.const(np.zeros(count))
    start = len(pair.weights) - 4 * count
    for _ in range(20):
        pair.add("Const", (), (count,), element_type="f32", shape=str(count), offset=start, size=4 * count)
    refused(tmp_path, *pair.files(), "holds the same weights too often")


def test_a_graph_that_computes_too_much_is_refused(tmp_path: Path) -> None:
    pair = Pair()
    image = pair.add("Parameter", (), (-1, SIZE, SIZE, 3), "image", "U8", shape=f"?,{SIZE},{SIZE},3", element_type="u8")
    pads = [pair.const([0, 0, 0, 0], "i8"), pair.const([0, 40_000, 40_000, 0], "i8")]
    side = SIZE + 40_000
    wide = pair.add("Pad", [image, *pads], (-1, side, side, 3), version="opset12", pad_mode="constant")
    axes = pair.const([1, 2], "i8")
    mean = pair.add("ReduceMean", [wide, axes], (-1, 3), "logits", keep_dims="false")
    probabilities = pair.add("SoftMax", [mean], (-1, 3), "probabilities", version="opset8", axis=1)
    pair.add("Result", [mean])
    pair.add("Result", [probabilities])
    refused(tmp_path, *pair.files(), "for each image|per image|than a classifier")


def test_another_bin_is_refused(tmp_path: Path) -> None:
    graph, weights = network().files()
    refused(tmp_path, graph, weights[:-1] + b"\x00\x01", r"m\.bin: is not the one that belongs to m\.xml")
    digest = hashlib.sha256(weights).hexdigest()
    assert WEIGHTS_DIGEST.encode() in graph and digest.encode() in graph
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ArtifactError, match=r"m\.bin: no such file"):
        describe(tmp_path / "m.xml")
