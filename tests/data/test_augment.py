import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from kcv.config import AugmentConfig
from kcv.data import augment, color, mix
from kcv.data.augment import ERASED_AREA, GREY, Augment
from kcv.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator(99))


def one_hot(count: int, classes: int = 4) -> Tensor:
    return F.one_hot(torch.arange(count) % classes, classes).float()


def apply(images: Tensor, *, seed: int = 0, epoch: int = 0, **config: object) -> tuple[Tensor, Tensor]:
    run = Augment(AugmentConfig(**config), image_size=images.shape[1], seed=5)
    return run(images, one_hot(len(images)), generator=generator(seed), indices=torch.arange(len(images)), epoch=epoch)


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
def test_equal_pictures_of_one_batch_get_different_changes(config: dict[str, object]) -> None:
    images = noise(2).repeat_interleave(16, 0).view(2, 16, 16, 16, 3).transpose(0, 1).reshape(32, 16, 16, 3)
    changed, targets = apply(images, **config)
    variants = {row.numpy().tobytes() for row in changed[::2]}  # all from the same picture, with the same partner
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
    changed, _ = run(images, targets, generator=generator(), indices=torch.arange(8), epoch=1)
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
def test_a_crop_is_cut_from_the_reflect_padded_picture(mirrored: bool) -> None:
    size, padding = 6, 5
    moves = torch.cartesian_prod(torch.arange(-padding, padding + 1), torch.arange(-padding, padding + 1))
    images = noise(len(moves), size)
    cut = augment.shift_and_flip(images, moves[:, :1], moves[:, 1:], torch.full((len(moves), 1), mirrored))
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


def test_random_flips_mirror_half_of_the_pictures() -> None:
    images = noise(400, 8)
    changed, _ = apply(images, flip="random")
    mirrored = torch.tensor([torch.equal(a, b.flip(1)) for a, b in zip(changed, images, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(changed, images, strict=True)])
    assert bool((mirrored ^ kept).all())
    assert 160 < int(mirrored.sum()) < 240


def test_alternating_flips_turn_each_picture_every_epoch() -> None:
    images = noise(64)
    epochs = [apply(images, seed=epoch, epoch=epoch, flip="alternating")[0] for epoch in range(3)]
    assert torch.equal(epochs[1], epochs[0].flip(2))
    assert torch.equal(epochs[2], epochs[0])


def test_the_first_flip_is_a_fair_coin_of_index_and_seed() -> None:
    indices = torch.arange(20_000)
    first = augment.first_flip(indices, seed=1)
    assert 9_700 < int(first.sum()) < 10_300
    assert torch.equal(augment.first_flip(indices.flip(0), seed=1), first.flip(0))  # of the index, not the place
    for other in (augment.first_flip(indices, seed=2), first.roll(1)):
        assert 9_700 < int((first == other).sum()) < 10_300


def soft_noise(count: int) -> Tensor:
    """Colours far enough from 0 and 255 that no factor used here clips."""
    return (noise(count).float() * 0.3 + 90).byte()


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("position", "reference"), [(0, V.adjust_brightness), (1, V.adjust_contrast), (2, V.adjust_saturation)]
)
def test_each_colour_factor_agrees_with_torchvision(position: int, reference: object, factor: float) -> None:
    images = soft_noise(4)
    factors = torch.ones(3, 4)
    factors[position] = factor
    ours = color.adjust(images, *factors, torch.zeros(4))
    theirs = reference(images.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)  # type: ignore[operator]
    assert (ours.int() - theirs.int()).abs().max() <= 1  # torchvision rounds down


def test_no_colour_change_is_the_identity() -> None:
    one = torch.ones(3, 8)
    assert torch.equal(color.adjust(noise(8), *one, torch.zeros(8)), noise(8))


def test_colour_factors_are_each_pictures_own() -> None:
    images = soft_noise(1).expand(3, -1, -1, -1)
    one = torch.ones(3)
    changed = color.adjust(images, torch.tensor([0.5, 1.0, 1.5]), one, one, torch.zeros(3)).float()
    torch.testing.assert_close(changed / images, torch.tensor([0.5, 1.0, 1.5])[:, None, None, None].expand_as(changed),
                               atol=0.01, rtol=0)  # fmt: skip


def test_a_third_of_the_colour_circle_turns_red_to_green_and_keeps_luma_and_greys() -> None:
    one, third = torch.ones(1), torch.tensor([1 / 3])
    red = torch.tensor([150, 110, 110], dtype=torch.uint8).expand(1, 8, 8, 3)
    turned = color.adjust(red, one, one, one, third)[0, 0, 0].tolist()
    assert turned[1] > turned[0] > 0
    assert turned[1] > turned[2]
    luma = torch.tensor([0.299, 0.587, 0.114])
    images = soft_noise(1)
    difference = (color.adjust(images, one, one, one, third).float() - images.float()) @ luma
    assert difference.abs().max() < 1.0  # rounding only
    grey = torch.full((1, 4, 4, 3), 77, dtype=torch.uint8)
    assert torch.equal(color.adjust(grey, one, one, one, third), grey)


def test_colour_values_are_clamped() -> None:
    one = torch.ones(1)
    white = torch.full((1, 4, 4, 3), 250, dtype=torch.uint8)
    assert bool((color.adjust(white, one * 1.5, one, one, one * 0) == 255).all())


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


def test_mixup_blends_pictures_and_labels_in_the_same_proportion() -> None:
    images, targets = noise(3), one_hot(3)
    keep = torch.tensor([0.25, 1.0, 0.0])
    blended, labels = mix.mixup(images, targets, keep)
    assert blended.dtype == torch.float32
    torch.testing.assert_close(blended[0], 0.25 * images[0].float() + 0.75 * images[2].float())
    assert torch.equal(blended[1], images[1].float())
    assert torch.equal(blended[2], images[1].float())
    assert labels.tolist() == [[0.25, 0, 0.75, 0], [0, 1, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("row", "column", "expected"),  # keep 0.75 of 16 x 16: a box of 8 x 8 around the centre
    [
        (8, 8, (4, 12, 4, 12)),
        (0, 0, (0, 4, 0, 4)),
        (15, 15, (11, 16, 11, 16)),
        (0, 15, (0, 4, 11, 16)),
        (4, 12, (0, 8, 8, 16)),
        (3, 13, (0, 7, 9, 16)),
    ],
)
def test_cutmix_boxes_are_cut_at_the_border_and_labels_follow_the_area(
    row: int, column: int, expected: tuple[int, int, int, int]
) -> None:
    images = torch.tensor([10, 20], dtype=torch.uint8)[:, None, None, None].expand(2, 16, 16, 3)
    targets = one_hot(2, 2)
    keep, centre = torch.tensor([0.75, 1.0]), torch.tensor([row, column])
    mixed, labels = mix.cutmix(images, targets, keep, centre[:1].expand(2), centre[1:].expand(2))
    top, bottom, left, right = expected
    by_hand = images[0].clone()
    by_hand[top:bottom, left:right] = 20
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed[0], by_hand)
    pasted = (bottom - top) * (right - left) / 256
    assert labels[0].tolist() == [1 - pasted, pasted]
    assert torch.equal(mixed[1], images[1])
    assert labels[1].tolist() == [0, 1]


def test_cutmix_labels_equal_the_area_that_was_really_pasted() -> None:
    count = 200
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 16, 16, 3).contiguous()
    run = Augment(AugmentConfig(cutmix=1.0), image_size=16, seed=0)
    mixed, labels = run(images, torch.eye(count), generator=generator(), indices=torch.arange(count), epoch=0)
    own = (mixed == images).all(3).float().mean((1, 2))
    assert torch.equal(labels.diagonal(), own)
    assert torch.equal(labels.sum(1), torch.ones(count))
    assert own.min() < 0.3
    assert own.max() > 0.9


def test_with_both_on_each_batch_takes_one_of_them() -> None:
    kinds = [apply(noise(4), seed=seed, mixup=0.5, cutmix=1.0)[0].dtype for seed in range(40)]
    assert 8 < kinds.count(torch.float32) < 32
    assert kinds.count(torch.float32) + kinds.count(torch.uint8) == 40


def test_what_does_not_fit_the_pictures_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Augment(AugmentConfig(crop_padding=16, cutout=17), image_size=16, seed=0)
    assert caught.value.problems == [
        "augment.crop_padding=16 is too much for pictures of 16 px: use 0 to 15",
        "augment.cutout=17 is larger than the pictures of 16 px: use 0 to 16",
    ]
