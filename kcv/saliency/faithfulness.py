"""How far heat maps can be trusted: whether the pixels they point at are those that the model needs."""

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
"""Maps of noise as coarse as the model's: what a method has to beat."""

_BLUR = 0.2
"""Width of the blur that insertion starts from, as a part of the image's side. Petsiuk et al. have 0.05, which hides
little of an object that fills the image: with it EfficientNet-Lite0 went from 0.85 for its class only to 0.67 on
CIFAR-10, with this to 0.17."""

_BYTES_PER_PIXEL = 100  # of an image in float32, changed and blurred, and of the order of its pixels


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

    Deletion paints over the hottest pixels first, with the image's mean colour; insertion brings them back first,
    into a blurred image. The model's probability of the explained class is followed from no pixel changed to all of
    them. The area under that curve, 0-1, is small for deletion, and large for insertion, where the map points at what
    the model needs. Both depend on the model as much as on the map: compare methods on one model, and with `random`.

    Args:
        model: functional, RGB 0-255 [batch, size, size, 3] to logits.
        pixels: uint8 [n, size, size, 3], at the model's size; at least one.
        labels: the classes to explain, integer [n]; by default each image's most probable one.
        methods: of `kcv.saliency.methods.METHODS`.
        layer: the layer to look at, by default the last with height and width.
        steps: points of a curve after its first; each is a forward pass of all images.
        batch_size: the most images computed at once; fewer where they are large.
        seed: of the order of equally hot pixels, and of the random maps.
        advance: called with the number of images done after each batch.

    Returns:
        By method, and for `random`: `deletion_auc` and `insertion_auc`, means over the images; `deletion_sem` and
        `insertion_sem`, their standard errors; `flat`, the part of maps that are zero everywhere. Plain floats.

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
    """Blurs images by two box filters, edges repeated: float [n, h, w, 3], to the same shape."""
    width = 2 * max(1, round(images.shape[1] * _BLUR / 2)) + 1
    x = images.movedim(3, 1)
    for _ in range(2):  # a box twice is a triangle, which is near to a Gaussian
        x = F.avg_pool2d(F.pad(x, (width // 2,) * 4, mode="replicate"), width, stride=1)
    return x.movedim(1, 3)


def _drawn(
    seed: int, first: int, count: int, cells: tuple[int, int], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draws for each image by its number, so that batches do not matter: noise [n, *cells], a shuffle [n, pixels]."""
    generators = [np.random.default_rng([seed, number]) for number in range(first, first + count)]
    noise = np.stack([generator.random(cells, np.float32) for generator in generators])
    return noise, np.stack([generator.permutation(size[0] * size[1]) for generator in generators])


def _order(maps: Tensor, shuffle: Tensor) -> Tensor:
    """Returns each pixel's place from hot (0) to cold, int64 [n, h, w]; equally hot ones in the order of `shuffle`."""
    flat = maps.flatten(1)
    hot = shuffle.gather(1, flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    return hot.argsort(1).view(maps.shape)


def _area(forward: Forward, classes: Tensor, order: Tensor, before: Tensor, after: Tensor, steps: int) -> Tensor:
    """Returns the area under the probabilities, float64 [n], while pixels change from `before` to `after` in order."""
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
