"""The model file: what goes in comes out, plain Keras opens it, and what is not one is refused in one line."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kcv.artifact import ArtifactInfo, read_info, save
from kcv.config import ModelConfig
from kcv.errors import ArtifactError, OutputError
from kcv.inference.opening import load

SIZE = 16
CLASSES = ("cat", "dog & bone", "élan")


def _info(**changes) -> ArtifactInfo:
    values = {
        "model_name": "custom_cnn",
        "class_names": CLASSES,
        "image_size": SIZE,
        "resize": "squash",
        "precision": "float32",
        "parameters": {"total": 10, "trainable": 5},
        "data_name": "digits",
        "data_fingerprint": "ab" * 32,
        "config": {"data": {"source": "digits"}},
        "versions": {"kcv": "0.1.0"},
    }
    return ArtifactInfo(**{**values, **changes})


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(pixels):
    import keras

    from kcv.models import registry

    keras.utils.set_random_seed(0)  # with weights that change from run to run, rounding may reach the fifth digit
    built = registry.build(ModelConfig(name="custom_cnn", dropout=0.2), SIZE, len(CLASSES), pixels)
    built(pixels, training=True)  # moves the normalisation statistics off their start
    return built


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "model.keras", model, _info())


def _logits(keras_model, pixels) -> np.ndarray:
    return keras_model(pixels, training=False).detach().numpy()


def _with_member(source: Path, target: Path, name: str, change) -> Path:
    """Copies an archive with one member changed by `change(bytes) -> bytes | None` (None leaves it out)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == name:
                data = change(data)
            if data is not None:
                new.writestr(member, data)
    return target


def test_a_loaded_model_gives_the_same_logits_to_the_bit(model, model_file, pixels):
    loaded = load(model_file)
    np.testing.assert_array_equal(_logits(loaded.keras_model, pixels), _logits(model, pixels))
    assert loaded.class_names == CLASSES
    assert loaded.image_size == SIZE


def test_the_description_survives(model_file):
    info = read_info(model_file)
    assert info.model_copy(update={"created": None}) == _info().model_copy(update={"created": None})


@pytest.mark.full
def test_plain_keras_opens_the_file_without_kcv(model, model_file, pixels, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    program = (
        "import sys, numpy as np, keras\n"
        f"model = keras.saving.load_model({str(model_file)!r})\n"
        f"logits = model(np.load({str(tmp_path / 'pixels.npy')!r}))\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, logits.detach().numpy())\n"
        "assert not any(name.split('.')[0] == 'kcv' for name in sys.modules)\n"
    )
    environment = {"KERAS_BACKEND": "torch", "PATH": "", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-I", "-c", program], check=True, env=environment, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), _logits(model, pixels), rtol=1e-5, atol=1e-6)


def test_predict_takes_arrays_paths_and_other_sizes(model_file, pixels, tmp_path):
    from PIL import Image

    loaded = load(model_file)
    expected = loaded.predict(pixels)
    assert expected.shape == (5, 3)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-6)
    paths = []
    for number, image in enumerate(pixels):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    np.testing.assert_array_equal(loaded.predict([str(path) for path in paths]), expected)
    np.testing.assert_allclose(loaded.predict(paths, batch_size=2), expected, rtol=1e-5, atol=1e-7)
    assert loaded.predict([np.zeros((40, 7, 3), np.uint8)]).shape == (1, 3)
    assert loaded.predict([]).shape == (0, 3)


def test_a_failed_save_leaves_the_file_that_was_there(model, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"the one before")

    class Failing:
        def save(self, target):
            Path(target).write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        save(path, Failing(), _info())
    assert path.read_bytes() == b"the one before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.keras"]


def test_another_suffix_is_refused(model, tmp_path):
    with pytest.raises(ArtifactError, match=r"ends in \.keras"):
        save(tmp_path / "model.h5", model, _info())


def _redescribed(**changes):
    """Returns what makes a copy of a model file with other values in its description."""

    def make(source: Path, target: Path) -> Path:
        return _with_member(
            source, target, "kcv.json", lambda data: json.dumps({**json.loads(data), **changes}).encode()
        )

    return make


def _truncated(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes()[:-2000])
    return target


def _written(target: Path, content: bytes) -> Path:
    target.write_bytes(content)
    return target


BROKEN = {
    "missing": (lambda source, target: target, "no such model file"),
    "folder": (lambda source, target: target.mkdir() or target, "is a folder"),
    "empty": (lambda source, target: _written(target, b""), "not a model file"),
    "text": (lambda source, target: _written(target, b"hello" * 100), "not a model file"),
    "truncated": (_truncated, "not a model file, or a damaged one"),
    "undescribed": (lambda s, t: _with_member(s, t, "kcv.json", lambda data: None), "it was not written by kcv"),
    "bad description": (lambda s, t: _with_member(s, t, "kcv.json", lambda data: b"{"), "its description is damaged"),
    "one class": (_redescribed(class_names=["a"]), "class_names"),
    "newer": (_redescribed(format_version=9), r"written by a newer kcv \(format 9\)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_not_a_model_file_is_refused(kind, model_file, tmp_path):
    make, message = BROKEN[kind]
    with pytest.raises(ArtifactError, match=message) as caught:
        read_info(make(model_file, tmp_path / "m.keras"))
    assert "\n" not in str(caught.value)


UNLOADABLE = {
    "no weights": (lambda s, t: _with_member(s, t, "model.weights.h5", lambda data: None), "has no model.weights.h5"),
    "cut weights": (
        lambda s, t: _with_member(s, t, "model.weights.h5", lambda data: data[:5000]),
        "its weights cannot be read",
    ),
    "no config": (lambda s, t: _with_member(s, t, "config.json", lambda data: None), "it is not a Keras model"),
    "bad config": (lambda s, t: _with_member(s, t, "config.json", lambda data: b"{"), "config.json is damaged"),
    "wrong classes": (_redescribed(class_names=["a", "b"]), "its description says"),
}


@pytest.mark.parametrize("kind", UNLOADABLE)
def test_what_cannot_be_loaded_is_refused(kind, model_file, tmp_path):
    make, message = UNLOADABLE[kind]
    with pytest.raises(ArtifactError, match=message) as caught:
        load(make(model_file, tmp_path / "m.keras"))
    assert "\n" not in str(caught.value)


def test_an_onnx_file_is_told_from_a_model_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"anything")
    with pytest.raises(ArtifactError, match=r"is an exported file \(ONNX\); here the \.keras file is needed"):
        load(tmp_path / "m.onnx")
