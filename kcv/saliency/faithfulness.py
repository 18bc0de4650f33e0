"""Measures the faithfulness of heat maps: whether they highlight the pixels that the model needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kcv.inference.outputs import Forward, native_forward
from kcv.native.footprint import images_at_once
from kcv.native.precision import in_float32
from kcv.saliency.explainer import Explainer
from kcv.saliency.methods import METHODS, heatmaps

if TYPE_CHECKING:
    import keras

RANDOM = "random"
"""Noise maps as coarse as the model's: the baseline that a method must beat."""

_BLUR = 0.2
"""Width of the blur that insertion starts from, as a fraction of the image's side. Petsiuk et al. use 0.05, which hides
little of an object that fills the image: with 0.05, the probability that EfficientNet-Lite0 gave to the class on
CIFAR-10 fell only from 0.85 to 0.67; with 0.2, it fell to 0.17."""

_BYTES_PER_PIXEL = 100  # for the image in float32, its changed and blurred copies, and the order of its pixels


def faithfulness(
    model: keras.Model,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.integer] | None = None,
    *,
    methods: Sequence[str] = tuple(METHODS),
    layer: str | None = None,
    steps: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    advance: Callable[[int], object] | None = None,
) -> dict[str, dict[str, float]]:
    """Measures deletion and insertion (Petsiuk, Das, Saenko 2018, "RISE", arXiv:1806.07421, section 4.2).

    Deletion replaces the hottest pixels first by the image's mean colour; insertion restores the hottest pixels first
    into a blurred image. Both track the model's probability of the explained class from no pixel changed to all pixels
    changed. If the map highlights what the model needs, the area under that curve (0-1) is small for deletion and large
    for insertion. Both depend on the model as much as on the map: compare methods on one model, and with `random`.

    Args:
        model: functional; maps RGB 0-255 [batch, size, size, 3] to logits.
        pixels: uint8 [n, size, size, 3], at the model's size; at least one image.
        labels: the classes to explain, integer [n]; by default the most probable class of each image.
        methods: names from `kcv.saliency.methods.METHODS`.
        layer: the layer to explain; by default the last with height and width.
        steps: the number of points on a curve after the first; each takes a forward pass of all images.
        batch_size: the maximum number of images computed at once; fewer if they are large.
        seed: seed for the order of equally hot pixels and for the random maps.
        advance: called after each batch with its number of images.

    Returns:
        By method, and for `random`: `deletion_auc` and `insertion_auc`, means over the images; `deletion_sem` and
        `insertion_sem`, their standard errors; `flat`, the fraction of maps that are zero everywhere. Plain floats.

    Raises:
        UsageError: the model cannot be explained, or has no such layer.
    """
    explainer, forward = Explainer(model, layer=layer), native_forward(in_float32(model))
    names = [*methods, RANDOM]
    batch_size = min(batch_size, images_at_once(_BYTES_PER_PIXEL * pixels.shape[1] * pixels.shape[2]))
    areas: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size]
        given = None if labels is None else torch.from_numpy(labels[start : start + batch_size].astype(np.int64))
        explained = explainer.explain(batch, classes=given, methods=methods)
        images = torch.from_numpy(batch).to(explained.logits.device).float()
        size, cells = (batch.shape[1], batch.shape[2]), (explainer.target.height, explainer.target.width)
        noise, shuffle = (
            torch.from_numpy(drawn).to(images.device) for drawn in _drawn(seed, start, len(batch), cells, size)
        )
        maps = {**explained.maps, RANDOM: heatmaps(noise, size)}
        with torch.inference_mode():
            for name in names:
                order = _order(maps[name], shuffle)
                mean = images.mean((1, 2), keepdim=True).expand_as(images)
                deletion = _area(forward, explained.classes, order, images, mean, steps)
                insertion = _area(forward, explained.classes, order, blurred(images), images, steps)
                flat = (maps[name].amax((1, 2)) == 0).double()
                areas[name].append(torch.stack([deletion, insertion, flat], dim=1).cpu().numpy())
        if advance is not None:
            advance(len(batch))
    return {name: _summary(np.concatenate(parts)) for name, parts in areas.items()}


def blurred(images: Tensor) -> Tensor:
    """Blurs images, float [n, h, w, 3], by two box filters with repeated edges; keeps the shape."""
    width = 2 * max(1, round(images.shape[1] * _BLUR / 2)) + 1
    x = images.movedim(3, 1)
    for _ in range(2):  # two box filters make a triangle filter, which approximates a Gaussian
        x = F.avg_pool2d(F.pad(x, (width // 2,) * 4, mode="replicate"), width, stride=1)
    return x.movedim(1, 3)


def _drawn(
    seed: int, first: int, count: int, cells: tuple[int, int], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draws noise [n, *cells] and a shuffle [n, pixels], seeded by image number and so independent of the batches."""
    generators = [np.random.default_rng([seed, number]) for number in range(first, first + count)]
    noise = np.stack([generator.random(cells, np.float32) for generator in generators])
    return noise, np.stack([generator.permutation(size[0] * size[1]) for generator in generators])


def _order(maps: Tensor, shuffle: Tensor) -> Tensor:
    """Returns each pixel's rank from hot (0) to cold, int64 [n, h, w]; `shuffle` orders equally hot pixels."""
    flat = maps.flatten(1)
    hot = shuffle.gather(1, flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    return hot.argsort(1).view(maps.shape)


def _area(forward: Forward, classes: Tensor, order: Tensor, before: Tensor, after: Tensor, steps: int) -> Tensor:
    """Returns the area under the probability curve, float64 [n], as pixels change from `before` to `after` in order."""
    count = order[0].numel()
    curve = []
    for step in range(steps + 1):
        changed = (order < round(count * step / steps))[..., None]
        probabilities = forward(torch.where(changed, after, before)).double().softmax(1)
        curve.append(probabilities.gather(1, classes[:, None])[:, 0])
    return torch.trapezoid(torch.stack(curve, dim=1), dx=1 / steps)


def _summary(areas: NDArray[np.float64]) -> dict[str, float]:
    deletion, insertion, flat = areas.mean(0).tolist()
    errors = (areas.std(0, ddof=1) / len(areas) ** 0.5).tolist() if len(areas) > 1 else [0.0] * 3
    return {
        "deletion_auc": deletion,
        "deletion_sem": errors[0],
        "insertion_auc": insertion,
        "insertion_sem": errors[1],
        "flat": flat,
    }
