"""Heat maps are those of the grad-cam package, whatever the model's precision, layout, layers and frozen parts."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers

import kcv
from kcv.errors import ArtifactError, ImageError, UsageError
from kcv.native.layers.lowered import Unsupported
from kcv.native.precision import precision_scope
from kcv.saliency import explainer
from kcv.saliency.explainer import Explainer, gradcam
from kcv.saliency.methods import METHODS

from .conftest import noise, red_patch, redness, sequential


class Halves(torch.nn.Module):
    """A model for the grad-cam package, cut in two Keras models; it never sees kcv's native programs."""

    def __init__(self, model: keras.Model, layer: str) -> None:
        super().__init__()
        middle = model.get_layer(layer).output

        class Front(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.keras = keras.Model(model.input, middle)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.keras(x, training=False)

        self.front = Front()
        self.back = keras.Model(middle, model.output)

    def forward(self, x: torch.Tensor) -> Any:
        return self.back(self.front(x.permute(0, 2, 3, 1)), training=False)


def of_the_package(model: keras.Model, layer: str, method: str, pixels: np.ndarray, classes: list[int]) -> np.ndarray:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    names = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM", "layercam": "LayerCAM"}
    halves = Halves(model, layer)
    with getattr(pytorch_grad_cam, names[method])(model=halves, target_layers=[halves.front]) as cam:
        x = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
        return np.asarray(cam(input_tensor=x, targets=[ClassifierOutputTarget(c) for c in classes]))


def resized(cells: np.ndarray, size: int) -> np.ndarray:
    """As the package brings maps to the size of the image."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return np.asarray(scale_cam_image(scale_cam_image(cells, (size, size))))


def maps_of(model: keras.Model, pixels: np.ndarray, method: str = "gradcam", **options: Any) -> np.ndarray:
    classes = options.pop("classes", None)
    return Explainer(model, **options).explain(pixels, classes=classes, methods=[method]).maps[method].numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("custom_cnn", 32, "block5_gelu2"),
        ("resnet50", 64, "conv5_block3_out"),
        pytest.param("true_resnet50", 64, "conv5_block3_out", marks=pytest.mark.full),
    ],
)
def test_maps_are_those_of_the_grad_cam_package(
    name: str, size: int, layer: str, method: str, request: pytest.FixtureRequest
) -> None:
    model, pixels, classes = request.getfixturevalue(name), noise(size), [0, 1, 4, 1]
    ours = maps_of(model, pixels, method, classes=classes)
    theirs = of_the_package(model, layer, method, pixels, classes)
    assert ours.dtype == np.float32
    assert ours.shape == (4, size, size)
    assert theirs.any(axis=(1, 2)).sum() >= 2, "nothing to compare"
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_earlier_layer_too(custom_cnn: keras.Model, method: str) -> None:
    pixels, classes = noise(32), [0, 1, 2, 3]
    ours = maps_of(custom_cnn, pixels, method, layer="block3_gelu2", classes=classes)
    theirs = of_the_package(custom_cnn, "block3_gelu2", method, pixels, classes)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_layer_that_a_shortcut_goes_around(custom_cnn: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, pixels, seen = custom_cnn.get_layer("block4_conv2"), noise(32), []
    convolve = type(layer).call

    def call(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = convolve(self, x)
        if self is layer:
            y.retain_grad()
            seen.append(y)
        return y

    monkeypatch.setattr(type(layer), "call", call)
    custom_cnn(pixels.astype(np.float32), training=False)[:, 2].sum().backward()
    expected = (seen[0].grad * seen[0]).sum(1).relu().detach().numpy()
    monkeypatch.undo()
    for variable in custom_cnn.trainable_variables:
        variable.value.grad = None
    ours = maps_of(custom_cnn, pixels, "hirescam", layer="block4_conv2", classes=[2] * 4)
    assert expected.any(axis=(1, 2)).sum() >= 2, "nothing to compare"
    np.testing.assert_allclose(ours, resized(expected, 32), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "true_size"),
    [("custom_cnn", 32, True), ("resnet50", 96, False), pytest.param("resnet50", 224, True, marks=pytest.mark.full)],
)
def test_a_batch_is_its_images(name: str, size: int, true_size: bool, build: Any) -> None:
    pixels = noise(size, 3)
    ours = Explainer(build(name, size, true_size=true_size))
    whole = ours.explain(pixels, methods=list(METHODS)).maps
    single = [ours.explain(pixels[i : i + 1], methods=list(METHODS)).maps for i in range(3)]
    for method in METHODS:
        assert whole[method].any()
        torch.testing.assert_close(whole[method], torch.cat([one[method] for one in single]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("method", METHODS)
def test_it_points_at_the_place(method: str, data_format: str) -> None:
    heat = maps_of(redness(data_format=data_format), red_patch(), method, classes=[0])[0]
    expected = np.zeros((16, 16), np.float32)
    expected[2:6, 9:15] = 1
    np.testing.assert_allclose(heat, expected, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [redness(), redness(weights=(0.0, 0.0)), redness(weights=(np.nan, np.nan))],
    ids=["against the class", "of no influence", "not a number"],
)
def test_what_does_not_speak_for_the_class_gives_a_map_of_zeros(model: keras.Model) -> None:
    for method in METHODS:
        heat = maps_of(model, red_patch(), method, classes=[1])
        assert not heat.any()
        assert np.isfinite(heat).all()


def test_a_map_that_is_the_same_everywhere_is_zero_too() -> None:
    everywhere = np.full((1, 16, 16, 3), (200, 0, 0), np.uint8)
    assert not maps_of(redness(), everywhere, classes=[0]).any()


def test_the_most_probable_class_is_explained_where_none_is_named(custom_cnn: keras.Model) -> None:
    pixels = noise(32)
    own = Explainer(custom_cnn).explain(pixels)
    with torch.no_grad():
        logits = custom_cnn(pixels.astype(np.float32), training=False)
    assert own.classes.tolist() == logits.argmax(1).tolist()
    torch.testing.assert_close(own.logits, logits.float(), atol=1e-4, rtol=1e-4)
    named = Explainer(custom_cnn).explain(pixels, classes=own.classes)
    torch.testing.assert_close(own.maps["gradcam"], named.maps["gradcam"])


def test_a_frozen_backbone_makes_no_difference_and_no_gradient_stays(build: Any) -> None:
    model = build("custom_cnn")
    before = maps_of(model, noise(32))
    model.trainable = False
    assert before.any()
    np.testing.assert_array_equal(maps_of(model, noise(32)), before)
    assert all(variable.value.grad is None for variable in model.variables)


def test_a_model_trained_in_mixed_precision_is_explained_in_float32(build: Any) -> None:
    plain = build("custom_cnn")
    with precision_scope("mixed_bfloat16"):
        mixed = build("custom_cnn")
    mixed.set_weights(plain.get_weights())
    np.testing.assert_array_equal(maps_of(mixed, noise(32)), maps_of(plain, noise(32)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_may_have_turned_gradients_off(mode: Any, custom_cnn: keras.Model) -> None:
    expected = maps_of(custom_cnn, noise(32))
    with mode():
        np.testing.assert_array_equal(maps_of(custom_cnn, noise(32)), expected)


def test_an_activation_that_overwrites_the_layers_output_does_not_change_what_is_seen() -> None:
    keras.utils.set_random_seed(0)
    model = sequential(
        layers.Rescaling(1 / 255), layers.Conv2D(8, 3, name="conv"), layers.ReLU(), layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    )  # fmt: skip
    pixels = noise(16)
    with torch.no_grad():
        conv = model.layers[1](model.layers[0](pixels.astype(np.float32)))
    kernel = model.layers[-1].kernel.value.detach()[:, 0]
    gradients = (conv > 0) * kernel / (14 * 14)
    weights = gradients.mean((1, 2), keepdim=True)
    expected = (weights * conv).sum(3).relu().numpy()
    assert expected.any(axis=(1, 2)).sum() >= 2, "nothing to compare"
    np.testing.assert_allclose(maps_of(model, pixels, layer="conv", classes=[0] * 4), resized(expected, 16), atol=1e-4)


def test_the_backbone_keeps_nothing_for_gradients(custom_cnn: keras.Model) -> None:
    ours, kept = Explainer(custom_cnn), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ours.explain(noise(32, 8))
        head = sum(kept)
        kept.clear()
        custom_cnn(noise(32, 8).astype(np.float32), training=False)
    assert head < sum(kept) / 20


def test_where_a_native_form_errs_keras_computes(custom_cnn: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = maps_of(custom_cnn, noise(32))

    def refuse(*_: Any) -> None:
        raise Unsupported("differs")

    monkeypatch.setattr(explainer, "check", refuse)
    ours = Explainer(custom_cnn)
    called = []
    monkeypatch.setattr(keras.layers.Conv2D, "call", _counted(keras.layers.Conv2D.call, called))
    heat = ours.explain(noise(32)).maps["gradcam"].numpy()
    assert len(called) == 9
    np.testing.assert_allclose(heat, expected, atol=1e-4)


def _counted(function: Any, calls: list[int]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    return call


def test_a_model_that_is_no_graph_is_refused() -> None:
    class Own(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    inputs = keras.Input((16, 16, 3))
    model = Own(inputs, layers.Dense(2)(layers.Flatten()(inputs)))
    with pytest.raises(UsageError, match="cannot be explained"):
        Explainer(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_draws_the_same_maps(build: Any) -> None:
    on_cpu = build("custom_cnn")
    with keras.device("cuda"):
        on_gpu = build("custom_cnn")
    on_gpu.set_weights(on_cpu.get_weights())
    done = Explainer(on_gpu).explain(noise(32))
    assert done.maps["gradcam"].device.type == "cuda"
    np.testing.assert_allclose(done.maps["gradcam"].cpu().numpy(), maps_of(on_cpu, noise(32)), atol=5e-3)


def test_gradcam_takes_arrays_and_paths_and_cuts_them_into_batches(trained_run: Any, images: Any) -> None:
    files = sorted((images / "test" / "left").iterdir())
    loaded = kcv.load_model(trained_run.model_path)
    maps = gradcam(loaded, files)
    assert maps.dtype == np.float32
    assert maps.shape == (8, 16, 16)
    assert maps.min() == 0
    assert maps.max() == 1
    pixels = kcv.images.stack(files, 16, "squash")
    np.testing.assert_array_equal(gradcam(trained_run.model_path.parent, pixels), maps)
    np.testing.assert_allclose(gradcam(loaded, files, batch_size=3), maps, atol=1e-5)
    np.testing.assert_allclose(gradcam(loaded, files[2]), maps[2:3], atol=1e-5)
    other = gradcam(loaded, files, class_name="top", method="gradcam++")
    assert np.abs(other - maps).max() > 0.1
    assert gradcam(loaded, []).shape == (0, 16, 16)
    assert kcv.gradcam is gradcam


def test_gradcam_says_what_it_does_not_know(trained_run: Any, exported: Any, tmp_path: Any) -> None:
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    loaded = kcv.load_model(trained_run.model_path)
    with pytest.raises(UsageError, match=r"no class 'lef'\. Did you mean 'left'\? The classes: centre, left, top\."):
        gradcam(loaded, pixels, class_name="lef")
    with pytest.raises(UsageError, match=r"allowed: gradcam, gradcam\+\+, hirescam, layercam"):
        gradcam(loaded, pixels, method="scorecam")
    with pytest.raises(UsageError, match="no layer 'pool' with height and width"):
        gradcam(loaded, pixels, layer="pool")
    with pytest.raises(ArtifactError, match=r"the \.keras file is needed"):
        gradcam(exported.path, pixels)
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(ImageError, match=r"bad\.png"):
        gradcam(loaded, [tmp_path / "bad.png"])


def test_a_models_program_is_made_once_and_goes_with_the_model(
    trained_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = kcv.load_model(trained_run.model_path)
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    first = gradcam(loaded, pixels)
    assert explainer.explainer_of(loaded, None) is explainer.explainer_of(loaded, None)
    model = weakref.ref(loaded.keras_model)
    np.testing.assert_array_equal(gradcam(loaded, pixels), first)
    del loaded
    gc.collect()
    assert model() is None


def test_a_batch_that_takes_much_memory_is_explained_in_parts(monkeypatch):
    from kcv.native import footprint

    pixels = np.random.default_rng(3).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    keras.utils.set_random_seed(2)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name="seen")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    whole = Explainer(model).explain(pixels, methods=["gradcam", "layercam"], classes=[0, 1, 2, 0, 1])
    monkeypatch.setattr(footprint, "MOST_BYTES", 1)
    with torch.inference_mode():
        parts = Explainer(model).explain(pixels, methods=["gradcam", "layercam"], classes=[0, 1, 2, 0, 1])
    for method, maps in whole.maps.items():
        torch.testing.assert_close(parts.maps[method], maps, rtol=1e-4, atol=1e-5)
    assert torch.equal(parts.classes, whole.classes)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-4, atol=1e-5)
