"""Layers of Keras in training: each batch is a function of its key."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from kcv.config import AugmentConfig
from kcv.data.augment.keras_layers import KerasPipeline
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Images, Samples
from kcv.errors import ConfigError

SIZE = 16
LAYERS: list[dict[str, Any]] = [
    {"name": "RandomFlip"},
    {"name": "RandomRotation", "factor": 0.1},
    {"name": "RandAugment", "factor": 0.3},
    {"name": "CutMix"},
]


def in_memory(count: int) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return Images(Samples(list(pixels), np.arange(count) % 3, [str(i) for i in range(count)]), SIZE, "squash", pixels)


def training(layers: list[dict[str, Any]]) -> TrainingBatches:
    augment = AugmentConfig(library="keras", layers=layers)
    return TrainingBatches(in_memory(12), num_classes=3, batch_size=4, augment=augment, seed=1, device="cpu")


def test_a_batch_follows_from_seed_epoch_and_step_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    batches = training(LAYERS)
    batches.set_epoch(2)
    passed = list(batches.loader())
    random.seed(5)
    torch.manual_seed(5)
    fresh = training(LAYERS)
    for step in (2, 0):
        images, targets = fresh.batch(2, step)
        assert torch.equal(images, passed[step][0])
        assert torch.equal(targets, passed[step][1])
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 255
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert not torch.equal(fresh.batch(3, 0)[0], passed[0][0])
    assert not torch.equal(passed[1][0], passed[0][0])
    random.setstate(before[0])
    torch.set_rng_state(torch.tensor(before[2], dtype=torch.uint8))


def test_global_generators_stay_where_they_are() -> None:
    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    pipeline = KerasPipeline([{"name": "AugMix"}], SIZE, 3, "cpu")  # draws from Python's own generator
    before = state()
    images = torch.from_numpy(in_memory(4).pixels)
    first, again, other = (pipeline(((1, key), images, torch.eye(4)[:, :3])) for key in (0, 0, 1))
    assert state() == before
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([{"name": "RandomFlp"}], "augment.layers[0]: Keras has no layer 'RandomFlp'. Did you mean 'RandomFlip'?"),
        ([{"name": "RandomFlip", "mod": 1}], "RandomFlip has no argument 'mod'. Did you mean 'mode'?"),
        ([{"name": "RandomRotation"}], "augment.layers[0]: RandomRotation needs factor."),
        (
            [{"name": "RandomRotation", "factor": 3}],
            "augment.layers[0]: RandomRotation does not take this: The `factor`",
        ),
        ([{"name": "RandomCrop", "height": 9, "width": 9}], "gives images of 9 x 9 x 3 instead of 16 x 16 x 3"),
        ([{"name": "Resizing", "height": 9, "width": 9}], "Resizing cannot be used: it is not random"),
        ([{"name": "RandomElasticTransform"}], "draw numbers that no seed repeats; use other layers"),
    ],
)
def test_layers_that_cannot_be_used_are_named(layers: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        training(layers)
    (line,) = caught.value.problems
    assert said in line
