import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kcv.config import AugmentConfig
from kcv.data.augment import pipeline
from kcv.data.augment.pipeline import ERASED_AREA, GREY, Augment
from kcv.data.augment.rng import BatchRng
from kcv.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator(99))


def chance(count: int, seed: int = 0) -> BatchRng:
    return BatchRng(generator(seed), count)


def one_hot(count: int, classes: int = 4) -> Tensor:
    return F.one_hot(torch.arange(count) % classes, classes).float()


def apply(images: Tensor, *, seed: int = 0, epoch: int = 0, **config: object) -> tuple[Tensor, Tensor]:
    run = Augment(AugmentConfig(**config), image_size=images.shape[1], seed=5)
    return run(
        images, one_hot(len(images)), chance=chance(len(images), seed), indices=torch.arange(len(images)), epoch=epoch
    )


EVERY_CHANGE = [
    {"crop_padding": 4},
    {"flip": "random"},
    {"flip": "alternating"},
    {"color_jitter": 0.4},
    {"hue": 0.2},
    {"cutout": 6},
    {"random_erasing": 1.0},
    {"mixup": 0.5},
    {"cutmix": 1.0},
]
each_change = pytest.mark.parametrize("config", EVERY_CHANGE, ids=str)


@each_change
def test_equal_images_of_one_batch_get_different_changes(config: dict[str, object]) -> None:
    images = noise(2).repeat_interleave(16, 0).view(2, 16, 16, 16, 3).transpose(0, 1).reshape(32, 16, 16, 3)
    changed, targets = apply(images, **config)
    variants = {row.numpy().tobytes() for row in changed[::2]}  # all from the same image, with the same partner
    assert len(variants) == 2 if "flip" in config else len(variants) >= 12
    if "mixup" in config or "cutmix" in config:
        assert len({row.numpy().tobytes() for row in targets[::4]}) >= 6


@each_change
def test_chance_comes_from_the_generator_alone(config: dict[str, object]) -> None:
    images, before = noise(32), torch.get_rng_state()
    first, again = apply(images, **config), apply(images, **config)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    if config != {"flip": "alternating"}:
        assert not torch.equal(first[0], apply(images, seed=1, **config)[0])


@each_change
def test_arguments_stay_untouched(config: dict[str, object]) -> None:
    images, targets = noise(8), one_hot(8)
    kept, kept_targets = images.clone(), targets.clone()
    run = Augment(AugmentConfig(**config), image_size=16, seed=5)
    changed, _ = run(images, targets, chance=chance(8), indices=torch.arange(8), epoch=1)
    assert not torch.equal(changed.float(), images.float())
    assert torch.equal(images, kept)
    assert torch.equal(targets, kept_targets)


def test_defaults_change_nothing() -> None:
    images = noise(4)
    changed, targets = apply(images)
    assert torch.equal(changed, images)
    assert torch.equal(targets, one_hot(4))


def test_everything_at_once_keeps_shape_range_and_label_weight() -> None:
    config = {key: value for change in EVERY_CHANGE for key, value in change.items()}
    for seed in range(4):
        images, targets = apply(noise(32), seed=seed, **config)
        assert images.shape == (32, 16, 16, 3)
        assert images.min() >= 0
        assert images.max() <= 255
        torch.testing.assert_close(targets.sum(1), torch.ones(32))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_cut_from_the_reflect_padded_image(mirrored: bool) -> None:
    size, padding = 6, 5
    moves = torch.cartesian_prod(torch.arange(-padding, padding + 1), torch.arange(-padding, padding + 1))
    images = noise(len(moves), size)
    cut = pipeline.shift_and_flip(images, moves[:, :1], moves[:, 1:], torch.full((len(moves), 1), mirrored))
    padded = F.pad(images.permute(0, 3, 1, 2).float(), (padding,) * 4, mode="reflect").permute(0, 2, 3, 1).byte()
    for i, (down, right) in enumerate(moves.tolist()):
        window = padded[i, padding + down :][:size, padding + right :][:, :size]
        assert torch.equal(cut[i], window.flip(1) if mirrored else window), (down, right)


def test_crops_reach_every_offset() -> None:
    rows = torch.arange(16, dtype=torch.uint8)[None, :, None, None].expand(600, 16, 16, 3).contiguous()
    changed, _ = apply(rows, crop_padding=2)
    # Row 8 of the result shows how far the window moved down; no border is in the way there.
    assert torch.bincount(changed[:, 8, 0, 0].long(), minlength=16)[6:11].min() > 80
    assert set(changed[:, 8, 0, 0].tolist()) == {6, 7, 8, 9, 10}


def test_random_flips_mirror_half_of_the_images() -> None:
    images = noise(400, 8)
    changed, _ = apply(images, flip="random")
    mirrored = torch.tensor([torch.equal(a, b.flip(1)) for a, b in zip(changed, images, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(changed, images, strict=True)])
    assert bool((mirrored ^ kept).all())
    assert 160 < int(mirrored.sum()) < 240


def test_alternating_flips_turn_each_image_every_epoch() -> None:
    images = noise(64)
    epochs = [apply(images, seed=epoch, epoch=epoch, flip="alternating")[0] for epoch in range(3)]
    assert torch.equal(epochs[1], epochs[0].flip(2))
    assert torch.equal(epochs[2], epochs[0])


def test_the_first_flip_is_a_fair_coin_of_index_and_seed() -> None:
    indices = torch.arange(20_000)
    first = pipeline.first_flip(indices, seed=1)
    assert 9_700 < int(first.sum()) < 10_300
    assert torch.equal(pipeline.first_flip(indices.flip(0), seed=1), first.flip(0))  # of the index, not the place
    for other in (pipeline.first_flip(indices, seed=2), first.roll(1)):
        assert 9_700 < int((first == other).sum()) < 10_300


def blanked(config: dict[str, object], count: int = 400, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Returns which pixels were blanked [count, size, size] and the heights and widths of their bounding boxes."""
    changed, _ = apply(torch.zeros(count, size, size, 3, dtype=torch.uint8), **config)
    assert set(changed.unique().tolist()) == {0, GREY}
    holes = (changed == GREY).all(3)
    assert torch.equal(holes, (changed == GREY).any(3))
    return holes, holes.any(2).sum(1), holes.any(1).sum(1)


@pytest.mark.parametrize("side", [5, 6])
def test_cutout_blanks_one_square_cut_only_by_the_border(side: int) -> None:
    holes, heights, widths = blanked({"cutout": side})
    assert torch.equal(holes.sum((1, 2)), heights * widths)  # solid rectangles
    assert heights.max() == widths.max() == side
    inner = ~(holes[:, 0].any(1) | holes[:, -1].any(1) | holes[:, :, 0].any(1) | holes[:, :, -1].any(1))
    assert inner.sum() > 100
    assert bool((holes[inner].sum((1, 2)) == side * side).all())
    assert heights.min() < side  # some hang over
    assert holes.any(0).all()  # the centre can be anywhere


def test_random_erasing_blanks_rectangles_of_the_documented_size_with_the_given_probability() -> None:
    holes, heights, widths = blanked({"random_erasing": 0.5}, count=2000, size=32)
    area = holes.sum((1, 2))
    assert torch.equal(area, heights * widths)
    erased = area > 0
    assert 900 < int(erased.sum()) < 1100
    part = area[erased] / 32**2
    assert part.min() >= ERASED_AREA[0] * 0.8  # sides are whole pixels
    assert part.max() <= ERASED_AREA[1] * 1.1
    assert part.std() > 0.05
    ratio = heights[erased] / widths[erased]
    assert ratio.min() < 0.5
    assert ratio.max() > 2
    assert holes[:, [0, 0, -1, -1], [0, -1, 0, -1]].any(0).all()  # reaches all four corners


def test_what_does_not_fit_the_images_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Augment(AugmentConfig(crop_padding=16, cutout=17), image_size=16, seed=0)
    assert caught.value.problems == [
        "augment.crop_padding=16 is too much for images of 16 px: use 0 to 15",
        "augment.cutout=17 is larger than the images of 16 px: use 0 to 16",
    ]
