"""RandAugment, TrivialAugment and AugMix: operations at random, drawn for each image.

RandAugment (Cubuk et al. 2019, arXiv 1909.13719) applies `num_ops` operations of one magnitude, TrivialAugment (Mueller
and Hutter 2021, arXiv 2103.10158) one of any magnitude. AugMix (Hendrycks et al. 2019, arXiv 1912.02781) blends the
image with three chains of one to three weak operations. Operations, ranges and defaults are those of torchvision's
RandAugment, TrivialAugmentWide and AugMix; what lies outside the image is grey.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.config import AugmentConfig
from kcv.data.augment.image_rng import ImageRng
from kcv.data.augment.operations import GEOMETRIC, OPERATIONS, matrices
from kcv.data.augment.warp import GREY, warp

_CHAINS: Final = 3
_DEPTH: Final = 3
_SEVERITY: Final = 3  # AugMix takes the magnitudes below this one, of ten

NAMES: Final = ("Identity", *GEOMETRIC, *OPERATIONS)
_UNSIGNED: Final = ("Identity", "Posterize", "Solarize", "AutoContrast", "Equalize")


@dataclass(frozen=True)
class Space:
    """The operations of one method, and what their magnitudes mean.

    Attributes:
        levels: how many magnitudes there are.
        slope: the largest shear.
        shift: the largest translation in pixels, as a function of the side of the image.
        degrees: the largest rotation.
        factor: the largest change of brightness, colour, contrast and sharpness.
        bits: what Posterize keeps at the lowest and at the highest magnitude.
        identity: whether doing nothing is one of the operations.
    """

    levels: int
    slope: float
    shift: Callable[[int], float]
    degrees: float
    factor: float
    bits: tuple[int, int]
    identity: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The operations that are drawn from."""
        return NAMES if self.identity else NAMES[1:]

    def strength(self, name: str, level: NDArray[np.int64], size: int) -> NDArray[np.float64]:
        """Returns the strengths of an operation at some magnitudes, without a sign: see `operations`."""
        part = level / (self.levels - 1)
        if name == "Posterize":
            return (self.bits[0] - part * (self.bits[0] - self.bits[1])).round()
        if name == "Solarize":
            return 1 - part
        if name in ("Identity", "AutoContrast", "Equalize"):
            return np.zeros(len(level))
        if name.startswith("Translate"):
            return part * self.shift(size)
        return part * {"ShearX": self.slope, "ShearY": self.slope, "Rotate": self.degrees}.get(name, self.factor)


SPACES: Final = {
    "randaugment": Space(31, 0.3, lambda size: 150 / 331 * size, 30.0, 0.9, (8, 4)),
    "trivialaugment": Space(31, 0.99, lambda size: 32.0, 135.0, 0.99, (8, 2)),
    "augmix": Space(10, 0.3, lambda size: size / 3, 30.0, 0.9, (4, 0), identity=False),
}


@dataclass(frozen=True)
class Chosen:
    """The operations that some images drew, one after another.

    Attributes:
        names: what `operations` counts.
        operations: int64 [n, steps]: positions in `names`; -1 for none.
        strengths: float64 [n, steps], with their signs.
        moved: float64 [n, steps, 3, 3]: the matrices of operations that move pixels, see `kcv.data.augment.warp`.
    """

    names: tuple[str, ...]
    operations: NDArray[np.int64]
    strengths: NDArray[np.float64]
    moved: NDArray[np.float64]

    def __getitem__(self, part: slice) -> Chosen:
        return Chosen(self.names, self.operations[part], self.strengths[part], self.moved[part])

    def places(self, step: int) -> dict[str, NDArray[np.int64]]:
        """Returns which images have each operation at a step; those that move pixels are one group, under ""."""
        chosen = self.operations[:, step]
        moving = np.isin(chosen, [self.names.index(name) for name in GEOMETRIC])
        groups = {name: np.flatnonzero(chosen == self.names.index(name)) for name in OPERATIONS}
        return {name: own for name, own in ({"": np.flatnonzero(moving)} | groups).items() if len(own)}


@dataclass(frozen=True)
class Mixture:
    """What AugMix drew for some images.

    Attributes:
        chains: the operations of each chain.
        weights: float32 [n, 1 + chains]: of the image and of each chain; their sum is 1.
    """

    chains: tuple[Chosen, ...]
    weights: NDArray[np.float32]

    def __getitem__(self, part: slice) -> Mixture:
        return Mixture(tuple(chain[part] for chain in self.chains), self.weights[part])


def draw(config: AugmentConfig, size: int, chance: ImageRng) -> Chosen | Mixture | None:
    """Draws the operations of each image; None if the configuration has none.

    Args:
        config: the augmentation settings.
        size: side of the images, in pixels.
        chance: the random numbers of the images.
    """
    if config.auto_augment == "none":
        return None
    space, count = SPACES[config.auto_augment], chance.count
    if config.auto_augment == "augmix":
        return _mixture(space, size, chance)
    if config.auto_augment == "randaugment":
        level = np.full((count, config.num_ops), config.magnitude)
    else:
        level = chance.integers("magnitude", space.levels)
    return _chosen(space, level, size, chance, "")


def _chosen(space: Space, level: NDArray[np.int64], size: int, chance: ImageRng, chain: str) -> Chosen:
    steps = level.shape[1]
    operations = chance.integers(f"operation{chain}", len(space.names), steps)
    sign = np.where(chance.uniform(f"sign{chain}", steps) < 0.5, -1.0, 1.0)
    strengths, moved = np.zeros(level.shape), np.zeros((*level.shape, 3, 3))
    for number, name in enumerate(space.names):
        same = operations == number
        strength = space.strength(name, level[same], size)
        strengths[same] = strength if name in _UNSIGNED else sign[same] * strength
        if name in GEOMETRIC:
            moved[same] = matrices(name, strengths[same], size)
    return Chosen(space.names, operations, strengths, moved)


def _mixture(space: Space, size: int, chance: ImageRng) -> Mixture:
    chains = []
    for chain in range(_CHAINS):
        level = chance.integers(f"magnitude{chain}", _SEVERITY, _DEPTH)
        drawn = _chosen(space, level, size, chance, str(chain))
        depth = 1 + chance.integers(f"depth{chain}", _DEPTH)
        chains.append(replace(drawn, operations=np.where(np.arange(_DEPTH) < depth, drawn.operations, -1)))
    # Beta(1, 1) is uniform, and Dirichlet(1, 1, 1) are exponential numbers divided by their sum.
    kept = chance.uniform("kept", 1)
    parts = -np.log1p(-chance.uniform("mixture", _CHAINS))
    parts = (1 - kept) * parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    return Mixture(tuple(chains), np.concatenate((kept, parts), axis=1).astype(np.float32))


def apply(planes: Tensor, drawn: Chosen | Mixture) -> Tensor:
    """Returns the changed images, uint8 [n, 3, size, size]; the argument stays as it is."""
    if isinstance(drawn, Chosen):
        return _apply_each(planes, drawn, nearest=True)
    weights = torch.from_numpy(drawn.weights).to(planes.device)[:, :, None, None, None]
    blended = planes * weights[:, 0]
    for number, chain in enumerate(drawn.chains, 1):
        blended.addcmul_(_apply_each(planes, chain, nearest=False).to(torch.float32), weights[:, number])
    return blended.clamp_(0, 255).to(torch.uint8)


def _apply_each(planes: Tensor, drawn: Chosen, *, nearest: bool) -> Tensor:
    for step in range(drawn.operations.shape[1]):
        groups, before = drawn.places(step), planes
        if not any(len(own) == len(planes) for own in groups.values()):
            planes = planes.clone()
        for name, own in groups.items():
            whole = len(own) == len(before)
            where = torch.from_numpy(own).to(before.device)
            some = before if whole else before.index_select(0, where)
            if name:
                changed = OPERATIONS[name](some, _on(some, drawn.strengths[own, step]))
            else:
                matrices = _on(some, drawn.moved[own, step])
                changed = warp(some, matrices, fill=GREY, projective=False, nearest=nearest)
            planes = changed if whole else planes.index_copy_(0, where, changed)
    return planes


def _on(planes: Tensor, numbers: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(numbers.astype(np.float32)).to(planes.device)
