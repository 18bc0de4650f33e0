"""Files that name anything but Keras' own harmless classes are refused before Keras sees them."""

import json
import zipfile

import keras
import pytest

from kcv.artifact.allowed_layers import LAYERS, check_classes
from kcv.errors import ArtifactError
from kcv.native.layers import LOWERINGS


def _layer(name, module="keras.layers", registered=None):
    return {"class_name": name, "module": module, "registered_name": registered, "config": {}}


@pytest.mark.parametrize(
    "node",
    [
        _layer("Conv2D"),
        _layer("Functional", "keras.src.models.functional", "Functional"),
        _layer("GlorotUniform", "keras.initializers"),
        _layer("DTypePolicy", "keras"),
        {"class_name": "__keras_tensor__", "config": {}},
    ],
)
def test_standard_classes_pass(node):
    check_classes({"config": {"layers": [node]}}, "m.keras")


@pytest.mark.parametrize(
    "node",
    [
        _layer("Lambda"),
        _layer("TFSMLayer"),
        _layer("TorchModuleWrapper"),
        _layer("Conv2D", "os"),
        _layer("Conv2D", registered="evil>Conv2D"),
        _layer("function", "builtins", "function"),
        _layer("__lambda__", None),
        _layer("system", "os"),
        _layer("GlorotUniform", "keras.initializers.evil"),
        {"class_name": ["Conv2D"], "module": "keras.layers"},
        {"class_name": "Conv2D"},
    ],
)
def test_everything_else_is_refused_wherever_it_hides(node):
    hidden = {"config": {"layers": [_layer("Conv2D"), {"config": {"activation": [{"deep": node}]}}]}}
    with pytest.raises(ArtifactError, match="which kcv does not open"):
        check_classes(hidden, "m.keras")


def test_a_real_lambda_model_is_refused_before_it_is_made(tmp_path):
    import keras

    from kcv.artifact import ArtifactInfo
    from kcv.inference.opening import load

    inputs = keras.Input((16, 16, 3))
    path = tmp_path / "m.keras"
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Lambda(lambda x: x * 2)(inputs)))
    keras.Model(inputs, outputs).save(path)
    info = ArtifactInfo(
        model_name="m",
        class_names=("a", "b"),
        image_size=16,
        resize="squash",
        precision="float32",
        parameters={"total": 2},
        data_name="d",
        data_fingerprint="",
        config={},
        versions={},
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("kcv.json", json.dumps(info.model_dump(mode="json")))
    with pytest.raises(ArtifactError, match=r"holds Lambda from keras\.layers"):
        load(path)


NOT_ALLOWED: set[str] = set()
"""Layers that have a native form, but are not to be opened from a file. None so far; a name here wants a reason."""


def test_each_layer_with_a_native_form_is_allowed_or_named_as_not():
    """A lowering alone opens no file: whoever adds one decides here, and in the list, what files may name."""
    lowered = {layer.__name__ for layer in LOWERINGS}
    assert all(getattr(keras.layers, layer.__name__) is layer for layer in LOWERINGS)
    assert lowered - LAYERS == NOT_ALLOWED
    assert not NOT_ALLOWED & LAYERS


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_each_allowed_name_is_a_layer_of_keras(name):
    assert issubclass(getattr(keras.layers, name), keras.layers.Layer)
