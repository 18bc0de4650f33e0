import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from kcv.data.augment import color


def noise(count: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


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


def test_colour_factors_are_each_images_own() -> None:
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
