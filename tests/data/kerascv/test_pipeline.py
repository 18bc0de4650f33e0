from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kcv.config import AugmentConfig
from kcv.data.augment import keras_cv
from kcv.data.augment.tf_pipeline import Pipeline, Plain
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Images, Samples
from kcv.data.order import ProcessShard
from kcv.errors import ConfigError

pytestmark = pytest.mark.skipif(not keras_cv.installed(), reason="needs the extra kcv[kerascv]")

ARGUMENTS: dict[str, dict[str, Any]] = {
    "Grayscale": {"output_channels": 3},
    "JitteredResize": {"target_size": [32, 32], "scale_factor": [0.8, 1.25]},
    "Posterization": {"bits": 4},
    "RandomApply": {"layer": {"name": "GridMask"}},
    "RandomAugmentationPipeline": {"layers": [{"name": "GridMask"}], "augmentations_per_image": 1},
    "RandomBrightness": {"factor": 0.2},
    "RandomChannelShift": {"factor": 0.3},
    "RandomChoice": {"layers": [{"name": "GridMask"}, {"name": "RandomRotation", "factor": 0.2}]},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomColorJitter": {
        "brightness_factor": 0.2, "contrast_factor": 0.2, "saturation_factor": 0.2, "hue_factor": 0.1,
    },
    "RandomContrast": {"factor": 0.3},
    "RandomCrop": {"height": 32, "width": 32},
    "RandomCropAndResize": {
        "target_size": [32, 32], "crop_area_factor": [0.8, 1.0], "aspect_ratio_factor": [0.9, 1.1],
    },
    "RandomCutout": {"height_factor": 0.5, "width_factor": 0.5},
    "RandomGaussianBlur": {"kernel_size": 3, "factor": 1.0},
    "RandomHue": {"factor": 0.2},
    "RandomRotation": {"factor": 0.1},
    "RandomSaturation": {"factor": 0.4},
    "RandomSharpness": {"factor": 0.4},
    "RandomShear": {"x_factor": 0.2, "y_factor": 0.2},
    "RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1},
    "RandomZoom": {"height_factor": 0.2},
}  # fmt: skip
"""What each layer needs; those that are not named need nothing."""

ALIKE = {"AutoContrast", "Equalization", "Grayscale", "Posterization", "Solarization", "RandomCrop"}
"""Layers that change equal images equally: nothing in them is random (or, at this size, has an effect)."""

LAYERS: list[dict[str, Any]] = [{"name": "RandAugment", "magnitude": 0.3}, {"name": "CutMix"}]


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


def plain(key: int, count: int = 12, begin: int = 0) -> Plain:
    return (key, begin), noise(count, seed=key), torch.eye(4)[torch.arange(count) % 4]


def equal(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(LAYERS, 32, 4, "cpu")


def names() -> list[str]:
    return keras_cv.layer_names(keras_cv.open_kerascv()) if keras_cv.installed() else []


def test_the_layers_are_those_that_were_tried() -> None:
    assert {"RandAugment", "AugMix", "CutMix", "MixUp", "GridMask", "RandomCutout", "RandomColorJitter"} <= {*names()}
    assert ARGUMENTS.keys() <= {*names()}


def test_every_layer_runs_in_a_graph_repeats_and_changes_images_apart(capfd: pytest.CaptureFixture[str]) -> None:
    same = noise(1).repeat(12, 1, 1, 1)
    for name in names():
        capfd.readouterr()
        layer = Pipeline([{"name": name, **ARGUMENTS.get(name, {})}], 32, 4, "cpu")
        images, targets = layer(plain(3))
        assert images.shape == (12, 32, 32, 3) and images.dtype == targets.dtype == torch.float32, name
        assert images.min() >= 0 and 4 < images.max() <= 255, name
        torch.testing.assert_close(targets.sum(1), torch.ones(12))
        assert equal(layer(plain(3)), (images, targets)), name
        changed, _ = layer(((1, 0), same, torch.eye(4)[torch.arange(12) % 4]))
        if name not in ALIKE | {"CutMix", "FourierMix"}:  # which put images together that are equal here
            assert len({image.numpy().tobytes() for image in changed}) > 1, name
        if name not in ("Mosaic", "RandomCrop"):  # tensorflow warns of its own cost estimate, past all levels
            assert capfd.readouterr() == ("", ""), name


def test_a_batch_follows_from_its_key_alone(pipeline: Pipeline) -> None:
    order = [5, 2, 9, 2, 7, 1]
    streamed = list(pipeline.stream(plain(key, 12 - key % 2) for key in order))
    assert equal(streamed[1], streamed[3])
    assert not equal(streamed[0], streamed[4])
    for key, batch in zip(order, streamed, strict=True):
        assert equal(pipeline(plain(key, 12 - key % 2)), batch)
    again = Pipeline(LAYERS, 32, 4, "cpu")
    assert equal(again(plain(9)), pipeline(plain(9)))
    _, images, targets = plain(9)
    assert not equal(pipeline(((9, 6), images, targets)), pipeline(((9, 0), images, targets)))


def test_labels_are_mixed_as_images_are() -> None:
    # Images of one value each: a blend's value says how much of each is in it.
    count = 16
    values = torch.arange(count) * 16
    images = values.to(torch.uint8)[:, None, None, None].expand(count, 32, 32, 3).contiguous()
    mixed, targets = Pipeline([{"name": "MixUp", "alpha": 1.0}], 32, count, "cpu")(((4, 0), images, torch.eye(count)))
    torch.testing.assert_close(targets @ values.float(), mixed.mean((1, 2, 3)), atol=1e-2, rtol=0)
    assert (targets.max(1).values < 0.999).sum() > count // 2
    # CutMix counts what its box would cover where it hangs over the border too: the images come from the same pair.
    cut, targets = Pipeline([{"name": "CutMix"}], 32, count, "cpu")(((4, 0), images, torch.eye(count)))
    for place in range(count):
        seen = {int(value) // 16 for value in cut[place].unique()}
        assert seen <= {*targets[place].nonzero().flatten().tolist()} | {place}
    assert sum(len(image.unique()) == 2 for image in cut) > count // 2


def test_nothing_else_in_the_process_is_changed(pipeline: Pipeline) -> None:
    import keras
    import tensorflow as tf

    before = (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    functions = [getattr(tf.random, name) for name in ("uniform", "normal", "gamma", "shuffle")]
    pipeline(plain(1))
    Pipeline([{"name": "MixUp"}], 32, 4, "cpu")
    assert (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) == before
    assert [getattr(tf.random, name) for name in ("uniform", "normal", "gamma", "shuffle")] == functions
    assert (keras.config.backend(), keras.config.dtype_policy().name) == ("torch", "float32")


def test_layers_compute_in_float32_whatever_the_policy() -> None:
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images, _ = Pipeline(LAYERS, 32, 4, "cpu")(plain(2))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert equal((images,), Pipeline(LAYERS, 32, 4, "cpu")(plain(2))[:1])


def test_an_error_of_the_source_arrives_as_it_was(pipeline: Pipeline) -> None:
    def broken() -> Iterator[Plain]:
        yield plain(0)
        raise OSError("the disk is gone")

    batches = pipeline.stream(broken())
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_a_pass_that_is_given_up_pulls_no_more(pipeline: Pipeline) -> None:
    pulled = []

    def endless() -> Iterator[Plain]:
        while True:
            pulled.append(threading.current_thread())
            yield plain(0)

    batches = pipeline.stream(endless())
    next(batches)
    batches.close()
    count = len(pulled)
    assert count <= 12
    list(pipeline.stream(iter([plain(0)])))
    assert len(pulled) == count


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"name": "RandAugmnt"}, "augment.layers[0]: keras-cv has no layer 'RandAugmnt'. Did you mean 'RandAugment'?"),
        ({"name": "Conv"}, "There are AugMix, AutoContrast"),
        ({"name": "RandAugment", "magnitud": 1}, "has no argument 'magnitud'. Did you mean 'magnitude'?"),
        ({"name": "CutMix", "x": 1}, "It has alpha."),
        ({"name": "RandomCutout"}, "RandomCutout needs height_factor, width_factor."),
        ({"name": "RandomBrightness", "factor": 7}, "RandomBrightness does not take this"),
        ({"name": "RandomJpegQuality", "factor": [75, 100]}, "takes values of 0 to 1"),
        ({"name": "Grayscale"}, "gives images of 32 x 32 x 1 instead of 32 x 32 x 3"),
        ({"name": "RandomCrop", "height": 28, "width": 28}, "gives images of 28 x 28 x 3"),
        ({"name": "RandomApply", "layer": {"name": "CutMix"}}, "RandomApply cannot run here"),
        ({"name": "RandomChoice", "layers": [{"name": "Gridmask"}]}, "layers[0]: keras-cv has no layer 'Gridmask'"),
        ({"name": "GridMask", "fill_mode": "gaussian_noise"}, "GridMask cannot run here"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Pipeline([layer], 32, 4, "cpu")
    (line,) = caught.value.problems
    assert said in line and "\n" not in line


def in_memory(count: int) -> Images:
    pixels = noise(count).numpy()
    samples = Samples(list(pixels), np.arange(count) % 3, [f"train/{i}" for i in range(count)])
    return Images(samples, 32, "squash", pixels)


@pytest.mark.parametrize("processes", [1, 2])
def test_iteration_gives_what_each_step_gives_alone(processes: int) -> None:
    augment = AugmentConfig(library="keras_cv", layers=[{"name": "RandAugment"}, {"name": "CutMix"}])
    batches = TrainingBatches(
        in_memory(22), num_classes=3, batch_size=8, augment=augment, label_smoothing=0.1, seed=1, device="cpu",
        share=ProcessShard(processes - 1, processes),
    )  # fmt: skip
    seen = {}
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        for step, batch in enumerate(batches):
            seen[epoch, step] = batch[:2]
    assert all(equal(batches.batch(*place), batch) for place, batch in seen.items())
    assert not torch.equal(seen[0, 0][0], seen[1, 0][0])
    batches.set_epoch(1, start=1)
    resumed = list(batches)
    assert resumed[0] is None
    assert all(equal(batch[:2], seen[1, step]) for step, batch in enumerate(resumed) if step)
