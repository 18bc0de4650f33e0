"""The description of a model file: whatever stands in its place is one line, and earlier ones still open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kcv.artifact import ArtifactInfo
from kcv.artifact.info import parse_info
from kcv.cli.render.info import model_card
from kcv.errors import ArtifactError

SCORES = {"precision": 0.5, "recall": None, "f1": 0.5, "support": 4}
FIGURES: dict[str, Any] = {
    "split": "test", "n": 8, "accuracy": 0.5, "accuracy_ci95": [0.2, 0.8], "macro_f1": 0.5, "macro_f1_ci95": [0.1, 0.9],
    "top_k_accuracy": {"2": 0.75}, "roc_auc_macro": None, "average_precision_macro": 0.5, "log_loss": 0.7, "brier": 0.5,
    "ece": 0.1, "reliability": [], "confused_pairs": [{"true": "a", "predicted": "b", "count": 1, "share": 0.5}],
    "per_class": {"a": SCORES, "b": SCORES},
}  # fmt: skip
SETS: dict[str, Any] = {"wanted_coverage": 0.95, "least": 0.1, "images": 40}
SET_FIGURES: dict[str, Any] = {
    "wanted_coverage": 0.95, "least": 0.1, "coverage": 0.94, "coverage_ci95": [0.9, 0.97], "mean_size": 1.2,
    "single": 0.8, "largest": 2, "lowest_class": "a", "lowest_class_coverage": 0.9,
}  # fmt: skip
SOUND: dict[str, Any] = {
    "format_version": 1, "model_name": "custom_cnn", "variant": None, "class_names": ["a", "b"], "image_size": 32,
    "resize": "squash", "precision": "float32", "parameters": {"total": 10, "trainable": 5}, "data_name": "digits",
    "data_fingerprint": "ab" * 32, "config": {"data": {"source": "digits"}}, "metrics": FIGURES,
    "calibration": {"temperature": 1.5, "sets": SETS}, "best_epoch": 3, "versions": {"kcv": "0.1.0"},
    "created": "2026-01-01T00:00:00Z",
}  # fmt: skip
EARLIER = {
    key: SOUND[key]
    for key in ("format_version", "model_name", "class_names", "image_size", "resize", "precision", "parameters")
} | {
    "data_name": "digits", "data_fingerprint": "ab", "config": {}, "versions": {}, "created": "2025-01-01T00:00:00Z",
    "metrics": {
        "split": "test", "n": 8, "accuracy": 0.5, "accuracy_ci95": [0.2, 0.8], "macro_f1": 0.5,
        "per_class": {"a": SCORES, "b": SCORES},
    },
}  # fmt: skip


def parsed(values: Any) -> ArtifactInfo:
    return parse_info(json.dumps(values).encode(), Path("m.keras"))


WITH_SETS = {**SOUND, "metrics": {**FIGURES, "prediction_sets": SET_FIGURES}}


@pytest.mark.parametrize("values", [SOUND, EARLIER, WITH_SETS, {**SOUND, "of_a_later": {"a": 1}, "metrics": None}])
def test_a_sound_description_is_read_and_shown(values: dict[str, Any], tmp_path: Path) -> None:
    info = parsed(values)
    assert info.metrics == values["metrics"]
    (tmp_path / "m.keras").touch()
    assert "custom_cnn" in model_card(info, tmp_path / "m.keras")


def test_a_threshold_that_nobody_measured_is_shown(tmp_path: Path) -> None:
    (tmp_path / "m.keras").touch()
    info = parsed({**SOUND, "calibration": {"temperature": 1, "threshold": 0.5}})
    assert "unsure below 0.5000\n" in model_card(info, tmp_path / "m.keras")


ODD: dict[str, Any] = {
    "metrics": [
        [], "x", 1, {}, {"x": 1}, {**FIGURES, "accuracy": "0.5"}, {**FIGURES, "accuracy": 7}, {**FIGURES, "n": 0},
        {**FIGURES, "n": 1.5}, {**FIGURES, "accuracy_ci95": [0.5]}, {**FIGURES, "per_class": []},
        {**FIGURES, "per_class": {}}, {**FIGURES, "per_class": {"a": {}}}, {**FIGURES, "per_class": {"a": {"f1": "x"}}},
        {**FIGURES, "top_k_accuracy": [1]}, {**FIGURES, "confused_pairs": [1]}, {**FIGURES, "split": None},
        {**FIGURES, "split": "\x1b[2J"}, {**FIGURES, "abstention": {}}, {**FIGURES, "log_loss": 1e300},
        {**FIGURES, "prediction_sets": {}}, {**FIGURES, "prediction_sets": {**SET_FIGURES, "mean_size": -1}},
        {**FIGURES, "macro_f1_ci95": "ab"}, {key: value for key, value in FIGURES.items() if key != "accuracy"},
    ],
    "parameters": [None, [], {}, {"total": None}, {"total": -1}, {"total": 10**400}, {"total": [1]}],
    "calibration": [[], "x", {"temperature": None}, {"threshold": 2}, {"pictures": 10**30},
        {"sets": []}, {"sets": {}}, {"sets": {**SETS, "least": 1.5}}, {"sets": {**SETS, "least": "0.1"}},
        {"sets": {**SETS, "wanted_coverage": 1}}, {"sets": {**SETS, "images": 0}}, {"sets": {**SETS, "images": 1.5}},
    ],
    "config": [
        None, [], "x", {str(number): 1 for number in range(300_000)}, {"data": {"a": [0] * 3000}},
        {"x" * 5_000_000: 1}, {"a": ["x" * 20_000]},
    ],
    "versions": [None, [], {"kcv": 1}, {"kcv": "\x1b]0;x\x07"}, {"x" * 2000: "1"}],
    "precision": [None, 1, [], "\x1b[31mred", "x" * 5000],
    "data_fingerprint": [None, 1, "a\nb"],
    "variant": [1, "\x1b[2J"],
    "class_names": [None, "ab", [], ["a"], [1, 2], {"a": 1}, ["a", "x" * 5000]],
    "image_size": [None, "x", [], 0, 10**30, 1.5],
    "best_epoch": ["x", -1, 10**30],
    "created": [None, [], "yesterday", 1e308, "9" * 100],
    "format_version": [None, "x", [], 0, {}],
}  # fmt: skip


@pytest.mark.parametrize("key", ODD)
def test_an_odd_value_is_one_short_line(key: str) -> None:
    for value in ODD[key]:
        with pytest.raises(ArtifactError, match=r"^m\.keras: its description is damaged: ") as caught:
            parsed({**SOUND, key: value})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_missing_key_is_named() -> None:
    optional = {"format_version", "variant", "metrics", "calibration", "best_epoch", "created"}
    for key in SOUND.keys() - optional:
        with pytest.raises(ArtifactError, match=rf"damaged: {key}: "):
            parsed({name: value for name, value in SOUND.items() if name != key})


def test_a_newer_format_is_told_as_one() -> None:
    for version in (2, 10**300):
        with pytest.raises(ArtifactError, match="written by a newer kcv"):
            parsed({**SOUND, "format_version": version, "class_names": 1})


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 2}'])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(ArtifactError, match="its description is damaged"):
        parse_info(text, Path("m.keras"))
