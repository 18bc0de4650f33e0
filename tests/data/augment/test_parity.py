"""Each operation gives what torchvision's functional kernel gives for the same parameters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from kcv.data.augment import automatic, filters, geometry, operations
from kcv.data.augment.warp import GREY, positions, resized_crop, sampled_crop, warp

COUNT = 4
each_size = pytest.mark.parametrize("size", [16, 33])


def planes(size: int, count: int = COUNT) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def repeated(value: float | Sequence[float], count: int = COUNT) -> np.ndarray:
    return np.array([value] * count, np.float64)


def off(left: Tensor, right: Tensor) -> int:
    return int((left.int() - right.int()).abs().max())


def tensor(matrices: np.ndarray) -> Tensor:
    return torch.from_numpy(matrices.astype(np.float32))


def inner(matrices: Tensor, size: int, projective: bool) -> Tensor:
    """Returns which pixels of the result come from inside the image, and not from its outermost half pixel."""
    return (positions(matrices, size, projective).abs() < 1 - 1 / size).all(-1)[:, None]


def undecided(matrices: Tensor, size: int) -> Tensor:
    """Returns which pixels of the result come from the border between two pixels, up to 1e-3 px."""
    place = (positions(matrices, size, False) + 1) * size / 2
    return ((place - place.round()).abs() < 1e-3).any(-1)[:, None]


AFFINE = [
    (20.0, (3, -2), 1.2, (5.0, -7.0)),
    (-75.0, (0, 0), 0.7, (0.0, 0.0)),
    (0.0, (4, 0), 1.0, (0.0, 0.0)),
    (180.0, (0, 0), 1.0, (0.0, 0.0)),
]


@each_size
@pytest.mark.parametrize(("angle", "shift", "zoom", "shear"), AFFINE)
def test_affine_changes(
    size: int, angle: float, shift: tuple[int, int], zoom: float, shear: tuple[float, float]
) -> None:
    images = planes(size)
    forward = geometry.affine(
        repeated(angle), repeated(shift).reshape(COUNT, 2) * 2 / size, repeated(zoom), repeated(shear)
    )
    matrices = tensor(np.linalg.inv(forward))
    grey = [float(GREY)] * 3
    wanted = V.affine(images, angle, list(shift), zoom, list(shear), InterpolationMode.NEAREST, fill=grey)
    found = warp(images, matrices, fill=GREY, projective=False, nearest=True)
    assert torch.equal(found, wanted) or bool(((found == wanted) | undecided(matrices, size)).all())

    # torchvision blends the outermost half pixel with the fill twice.
    wanted = V.affine(images, angle, list(shift), zoom, list(shear), InterpolationMode.BILINEAR, fill=grey)
    inside = inner(matrices, size, False)
    assert inside.float().mean() > 0.2
    for fill in (GREY, None):
        found = warp(images, matrices, fill=fill, projective=False)
        assert off(torch.where(inside, found, 0), torch.where(inside, wanted, 0)) <= 1


@each_size
def test_perspective(size: int) -> None:
    images = planes(size)
    starts, ends = (
        [[0, 0], [size, 0], [size, size], [0, size]],
        [[2, 1], [size - 4, 3], [size - 2, size - 3], [1, size]],
    )
    matrices = tensor(np.linalg.inv(geometry.homography(repeated(ends).reshape(COUNT, 4, 2) * 2 / size - 1)))
    wanted, inside = V.perspective(images, starts, ends), inner(matrices, size, True)
    found = warp(images, matrices, fill=0, projective=True)
    assert off(torch.where(inside, found, 0), torch.where(inside, wanted, 0)) <= 1


def test_the_horizon_of_the_strongest_perspective_is_never_in_the_image() -> None:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    inwards = np.array(list(itertools.product([0, 1], repeat=8))).reshape(-1, 4, 2)
    moved = corners * (1 - 0.4 * inwards)
    depth = np.linalg.inv(geometry.homography(moved)) @ np.concatenate((corners, np.ones((4, 1))), axis=1).T
    assert depth[:, 2].min() > 0.05


@each_size
def test_resized_crops_are_exact(size: int) -> None:
    boxes = torch.tensor([[0, 0, size, size], [3, 2, size - 5, size - 7], [1, 1, 2, 3], [size - 1, size - 1, 1, 1]])
    mirrored, images = torch.tensor([False, True, True, False]), planes(size)
    wanted = [V.resized_crop(image, *box, [size, size]) for image, box in zip(images, boxes.tolist(), strict=True)]
    wanted = [image.flip(2) if flip else image for image, flip in zip(wanted, mirrored, strict=True)]
    pixels, expected = images.permute(0, 2, 3, 1).contiguous(), torch.stack(wanted).permute(0, 2, 3, 1)
    assert torch.equal(resized_crop(pixels, boxes, mirrored), expected)
    assert off(sampled_crop(pixels, boxes, mirrored), expected) <= 1  # as it is computed on a GPU


def twin(images: Tensor, name: str, strength: float) -> Tensor:
    method = v2.RandAugment(fill=GREY)
    return method._apply_image_or_video_transform(
        images, name, strength, InterpolationMode.NEAREST, {torch.Tensor: [float(GREY)] * 3}
    )


@each_size
@pytest.mark.parametrize(
    ("name", "strength"),
    [("ShearX", 0.23), ("ShearY", -0.25), ("TranslateX", 5.7), ("TranslateY", -3.2), ("Rotate", 23.0), ("Rotate", -90)],
)
def test_operations_that_move_pixels(name: str, strength: float, size: int) -> None:
    matrices = tensor(operations.matrices(name, repeated(strength), size))
    found = warp(planes(size), matrices, fill=GREY, projective=False, nearest=True)
    assert bool(((found == twin(planes(size), name, strength)) | undecided(matrices, size)).all())


@each_size
@pytest.mark.parametrize(
    ("name", "strengths", "rounding"),
    [
        ("Brightness", (0.4, -0.9, 0.99, 0.0), 1),
        ("Color", (0.4, -0.9, 0.99, 0.0), 1),
        ("Contrast", (0.4, -0.9, 0.99, 0.0), 1),
        ("Sharpness", (0.4, -0.9, 0.99, 0.0), 1),
        ("Posterize", (8, 4, 2, 0), 0),
        ("Solarize", (1.0, 0.5, 0.3, 0.0), 0),
        ("AutoContrast", (0, 0, 0, 0), 0),
        ("Equalize", (0, 0, 0, 0), 0),
    ],
)
def test_operations_that_change_values(name: str, strengths: tuple[float, ...], rounding: int, size: int) -> None:
    images = torch.cat((planes(size, 3) // 2 + 40, torch.full((1, 3, size, size), 77, dtype=torch.uint8)))
    found = operations.OPERATIONS[name](images, torch.tensor(strengths, dtype=torch.float32))
    assert found.dtype == torch.uint8
    for changed, image, strength in zip(found, images, strengths, strict=True):
        assert off(changed, twin(image, name, strength)) <= rounding
    assert bool((found != images)[:3].any())


@each_size
def test_blur_and_greyscale(size: int) -> None:
    images, sigmas, radius = planes(size), [0.05, 0.7, 1.5, 3.0], 5
    found = filters.gaussian_blur(images, torch.tensor(sigmas), radius)
    for blurred, image, sigma in zip(found, images, sigmas, strict=True):
        assert off(blurred, V.gaussian_blur(image, [11, 11], [sigma, sigma])) <= 1
    assert torch.equal(filters.grayscale(images), V.rgb_to_grayscale(images, 3))


def test_the_widest_blur_fits_the_smallest_image() -> None:
    assert [filters.blur_radius(size) for size in (2, 16, 224, 1024)] == [1, 1, 6, 28]


@pytest.mark.parametrize(
    ("method", "reference", "levels"),
    [("randaugment", v2.RandAugment, 31), ("trivialaugment", v2.TrivialAugmentWide, 31), ("augmix", v2.AugMix, 10)],
)
@pytest.mark.parametrize("size", [32, 224])
def test_operations_and_their_ranges_are_those_of_torchvision(
    method: str, reference: type, levels: int, size: int
) -> None:
    space = automatic.SPACES[method]
    assert set(space.names) == set(reference._AUGMENTATION_SPACE)
    assert space.levels == levels
    for name in space.names:
        function, signed = reference._AUGMENTATION_SPACE[name]
        assert signed == (name not in automatic._UNSIGNED)
        magnitudes = function(levels, size, size)
        wanted = np.zeros(levels) if magnitudes is None else magnitudes.double().numpy()
        np.testing.assert_allclose(space.strength(name, np.arange(levels), size), wanted, rtol=1e-6, atol=1e-6)


def test_augmix_blends_its_chains_by_their_weights() -> None:
    images = planes(32, 2)
    none = np.zeros((2, 3, 3, 3))
    names = automatic.SPACES["augmix"].names
    brighter = automatic.Chosen(names, np.array([[names.index("Brightness"), -1, -1]] * 2), np.full((2, 3), 0.3), none)
    still = automatic.Chosen(names, np.full((2, 3), -1), np.zeros((2, 3)), none)
    weights = np.array([[0.25, 0.5, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]], np.float32)
    found = automatic.apply(images, automatic.Mixture((brighter, still, brighter), weights))
    wanted = 0.5 * images[0].float() + 0.5 * V.adjust_brightness(images[0], 1.3).float()
    assert off(found[0], wanted.byte()) <= 1
    assert torch.equal(found[1], images[1])


def test_mirroring_continues_the_image_beyond_its_border() -> None:
    images = planes(16, 1)
    matrices = tensor(np.linalg.inv(geometry.affine(np.zeros(1), np.array([[0.5, 0.0]]), np.ones(1), np.zeros((1, 2)))))
    found = warp(images, matrices, fill=None, projective=False)
    assert torch.equal(found, F.pad(images.float(), (4, 0, 0, 0), mode="replicate").byte()[..., :16].index_copy(
        3, torch.arange(4), images[..., [3, 2, 1, 0]]))  # fmt: skip
