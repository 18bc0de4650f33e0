import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kcv.data.augment import mix
from kcv.data.augment.rng import BatchRng


def noise(count: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def chance(count: int, seed: int = 0) -> BatchRng:
    return BatchRng(torch.Generator().manual_seed(seed), count)


def one_hot(count: int, classes: int = 4) -> Tensor:
    return F.one_hot(torch.arange(count) % classes, classes).float()


def test_mixup_blends_images_and_labels_in_the_same_proportion() -> None:
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
    mixed, labels = mix.mix(images, torch.eye(count), 0.0, 1.0, chance(count))
    own = (mixed == images).all(3).float().mean((1, 2))
    assert torch.equal(labels.diagonal(), own)
    assert torch.equal(labels.sum(1), torch.ones(count))
    assert own.min() < 0.3
    assert own.max() > 0.9


def test_with_both_on_each_batch_takes_one_of_them() -> None:
    kinds = [mix.mix(noise(4), one_hot(4), 0.5, 1.0, chance(4, seed))[0].dtype for seed in range(40)]
    assert 8 < kinds.count(torch.float32) < 32
    assert kinds.count(torch.float32) + kinds.count(torch.uint8) == 40
