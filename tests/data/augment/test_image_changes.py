"""Geometry, operations at random, blur and greyscale: functions of (seed, epoch, image), whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kcv.config import AugmentConfig
from kcv.config.policies import POLICIES
from kcv.data.augment import automatic, geometry
from kcv.data.augment.image_rng import ImageRng
from kcv.data.augment.pipeline import Augment
from kcv.data.augment.rng import BatchRng

CHANGES = [
    {"resized_crop": 0.3},
    {"vertical_flip": True},
    {"rotation": 30.0},
    {"translate": 0.2},
    {"scale": 0.3},
    {"shear": 20.0},
    {"perspective": 0.4},
    {"auto_augment": "randaugment"},
    {"auto_augment": "randaugment", "num_ops": 5, "magnitude": 30},
    {"auto_augment": "trivialaugment"},
    {"auto_augment": "augmix"},
    {"grayscale": 0.5},
    {"blur": 1.0},
]
each_change = pytest.mark.parametrize("config", CHANGES, ids=str)
each_policy = pytest.mark.parametrize("policy", [name for name in POLICIES if name != "none"])
EVERYTHING = {key: value for change in CHANGES for key, value in change.items()}


def noise(count: int, size: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def changed(
    images: Tensor, places: list[int] | range, *, seed: int = 3, epoch: int = 1, batch_seed: int = 0, **config: object
) -> Tensor:
    augment = Augment(AugmentConfig(**config), image_size=images.shape[1], seed=seed)
    chance = BatchRng(torch.Generator().manual_seed(batch_seed), len(images))
    targets = torch.eye(len(images))
    result, same = augment(images, targets, chance=chance, indices=torch.tensor(list(places)), epoch=epoch)
    assert torch.equal(same, targets)
    return result


@each_change
def test_an_image_is_changed_alike_in_any_batch(config: dict[str, object]) -> None:
    images = noise(90)
    whole = changed(images, range(90), **config)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert float((whole != images).float().mean()) > 0.1
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))[:31].tolist()
    # Another batch, with other neighbours and another seed of its own: what an image gets is its own.
    assert torch.equal(changed(images[order], order, batch_seed=9, **config), whole[order])
    assert torch.equal(changed(images[7:8], [7], **config), whole[7:8])


@each_change
def test_seeds_epochs_and_images_get_changes_of_their_own(config: dict[str, object]) -> None:
    images = noise(1).expand(40, -1, -1, -1).contiguous()
    first = changed(images, range(40), **config)
    kinds = len({image.numpy().tobytes() for image in first})
    assert kinds == 2 if {"vertical_flip", "grayscale"} & config.keys() else kinds > (10 if "blur" in config else 20)
    assert not torch.equal(first, changed(images, range(40), epoch=2, **config))
    assert not torch.equal(first, changed(images, range(40), seed=4, **config))
    assert torch.equal(first, changed(images, range(40), **config))


@each_change
def test_arguments_and_global_generators_stay_untouched(config: dict[str, object]) -> None:
    images, before = noise(9), torch.get_rng_state()
    kept = images.clone()
    changed(images, range(9), **config)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_change_leaves_the_numbers_of_another_alone() -> None:
    images = noise(20)
    blurred = changed(images, range(20), blur=0.5)
    both = changed(images, range(20), blur=0.5, grayscale=0.5)
    coloured = [i for i in range(20) if torch.equal(both[i], blurred[i])]
    assert 3 < len(coloured) < 17


def test_existing_keys_draw_the_same_numbers_beside_the_new_ones() -> None:
    images = torch.zeros(30, 48, 48, 3, dtype=torch.uint8)
    alone = changed(images, range(30), random_erasing=0.7, cutout=9)
    assert torch.equal(changed(images, range(30), random_erasing=0.7, cutout=9, blur=1.0, rotation=9.0), alone)


@pytest.mark.parametrize("others", [{"resized_crop": 0.99999}, {"rotation": 1e-6}])
def test_a_flip_in_passing_is_the_flip_of_the_flip_alone(others: dict[str, float]) -> None:
    images = noise(30)
    for flip in ("random", "alternating"):
        plain, passing = (changed(images, range(30), flip=flip, **more) for more in ({}, others))
        assert int((plain.int() - passing.int()).abs().max()) <= 1


def test_flips_upside_down_are_exact_and_fair() -> None:
    images = noise(400, 16)
    turned = changed(images, range(400), vertical_flip=True)
    flipped = torch.tensor([torch.equal(a, b.flip(0)) for a, b in zip(turned, images, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(turned, images, strict=True)])
    assert bool((flipped ^ kept).all())
    assert 160 < int(flipped.sum()) < 240


def test_crops_have_the_documented_areas_and_ratios() -> None:
    boxes = geometry.crop_boxes(100, 0.2, ImageRng(0, 0, np.arange(4000)))
    top, left, height, width = boxes.T
    assert top.min() == left.min() == 0
    assert (top + height).max() == (left + width).max() == 100
    area = height * width / 100**2
    assert 0.19 < area.min() < 0.22
    assert area.max() > 0.95
    assert abs(area.mean() - 0.57) < 0.03  # large and oblong crops do not fit
    ratio = width / height
    assert 0.72 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.38


def test_crops_of_the_smallest_area_have_at_least_one_pixel() -> None:
    boxes = geometry.crop_boxes(16, 1e-9, ImageRng(0, 0, np.arange(2000)))
    assert boxes[:, 2:].min() >= 1
    assert torch.equal(
        changed(noise(5, 16), range(5), resized_crop=1e-9), changed(noise(5, 16), range(5), resized_crop=1e-9)
    )


def test_random_operations_are_drawn_evenly() -> None:
    drawn = automatic.draw(AugmentConfig(auto_augment="trivialaugment"), 32, ImageRng(0, 0, np.arange(14_000)))
    assert isinstance(drawn, automatic.Chosen)
    counts = np.bincount(drawn.operations[:, 0], minlength=14)
    assert len(counts) == 14
    assert counts.min() > 850
    assert counts.max() < 1150
    assert 0.45 < (drawn.strengths[drawn.operations == drawn.names.index("Rotate")] < 0).mean() < 0.55


def test_mixtures_of_augmix_have_weights_that_sum_to_one() -> None:
    drawn = automatic.draw(AugmentConfig(auto_augment="augmix"), 32, ImageRng(0, 0, np.arange(2000)))
    assert isinstance(drawn, automatic.Mixture)
    np.testing.assert_allclose(drawn.weights.sum(1), 1, atol=1e-6)
    assert drawn.weights.min() >= 0
    assert 0.45 < drawn.weights[:, 0].mean() < 0.55
    depths = np.concatenate([(chain.operations >= 0).sum(1) for chain in drawn.chains])
    assert np.bincount(depths, minlength=4)[1:].min() > 1800


def test_numbers_are_uniform_and_independent() -> None:
    drawn = ImageRng(1, 0, np.arange(20_000)).uniform("x", 3)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert np.histogram(drawn, bins=10, range=(0, 1))[0].min() > 5700
    others = [
        ImageRng(2, 0, np.arange(20_000)).uniform("x", 3),
        ImageRng(1, 1, np.arange(20_000)).uniform("x", 3),
        ImageRng(1, 0, np.arange(20_000)).uniform("y", 3),
        np.roll(drawn, 1, axis=0),
        np.roll(drawn, 1, axis=1),
    ]
    assert max(abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) for other in others) < 0.02


def test_numbers_stay_what_they_are() -> None:
    drawn = ImageRng(seed=42, epoch=3, indices=np.array([0, 9])).uniform("rotation", 2)
    np.testing.assert_array_equal(drawn, GOLDEN)


GOLDEN = np.array([[0.8040676418998243, 0.49115433538594144], [0.12756630379849265, 0.4504187078559213]])


@each_policy
@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("value", [0, 255, None])
def test_each_policy_takes_the_smallest_images_and_extreme_values(policy: str, size: int, value: int | None) -> None:
    images = noise(12, size) if value is None else torch.full((12, size, size, 3), value, dtype=torch.uint8)
    result = changed(images, range(12), policy=policy)
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    if value is None:
        assert float((result != images).float().mean()) > 0.5


def test_everything_at_once_stays_an_image() -> None:
    extreme = {**EVERYTHING, "resized_crop": 1e-6, "rotation": 180.0, "translate": 1.0, "scale": 0.999, "shear": 60.0}
    for size in (16, 40):
        result = changed(
            noise(16, size), range(16), **extreme, flip="random", crop_padding=3, color_jitter=1.0, hue=0.5
        )
        assert result.dtype == torch.uint8
        assert result.shape == (16, size, size, 3)
        assert result.float().std() > 10
