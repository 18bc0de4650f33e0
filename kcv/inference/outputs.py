"""Logits of many images: the one way in which training, evaluation and prediction run a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras
    import torch

    from kcv.data.dataset import Images
    from kcv.distributed.group import Group

Forward: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"

BATCH_SIZE = 256
"""The most images a batch wherever the user names no other."""

_BATCH_BYTES = 64 * 2**20  # of a batch's images, uint8: some batches are read ahead


def batch_size_for(image_size: int) -> int:
    """Returns how many images are read at once, fewer of large ones; how many are computed is the model's business.

    One rule for all verbs, because the last bits of a logit may depend on the size of the batch it was computed in, and
    evaluation must repeat training's figures to the last digit.

    Args:
        image_size: side of the images, pixels.
    """
    return max(1, min(BATCH_SIZE, _BATCH_BYTES // (3 * image_size**2)))


def logits(
    model: keras.Model,
    images: Images,
    *,
    batch_size: int | None = None,
    workers: int | None = 0,
    advance: Callable[[int], object] | None = None,
    group: Group | None = None,
    forward: Forward | None = None,
) -> NDArray[np.float32]:
    """Runs a model over one split.

    Args:
        model: takes RGB 0-255 [batch, size, size, 3] and gives logits.
        images: the split, at the model's size.
        batch_size: images a batch, by default `batch_size_for` theirs; changes speed and, at most, the last bits.
        workers: processes that decode images which are not in memory.
        advance: called with the number of images done after each batch.
        group: the processes that share the work; all get all logits.
        forward: as of `logits_of_batches`.

    Returns:
        float32 [n, classes], in the order of the split.
    """
    from kcv.data.batches import InferenceBatches

    batches = InferenceBatches(
        images,
        batch_size=batch_size or batch_size_for(images.size),
        device=model_device(model),
        workers=workers,
        num_classes=int(model.output_shape[-1]),
        share=group.share if group else None,
    )
    try:
        given = (images for images, _ in batches.loader())
        rows = logits_of_batches(model, given, forward=forward, advance=advance)
        return group.all_gather_rows(rows) if group else rows
    finally:
        batches.close()


def logits_of_batches(
    model: keras.Model,
    batches: Iterable[torch.Tensor],
    *,
    forward: Forward | None = None,
    advance: Callable[[int], object] | None = None,
) -> NDArray[np.float32]:
    """Runs a model over batches of RGB 0-255 [batch, size, size, 3] and returns its logits, float32 [n, classes].

    Args:
        model: gives logits.
        batches: images.
        forward: of the model, from `native_forward`, where the caller keeps it from call to call.
        advance: called with the number of images done after each batch.
    """
    import torch

    forward = forward or native_forward(model)
    rows: list[torch.Tensor] = []
    with torch.inference_mode():
        for images in batches:
            # Results stay on the device until the end: a copy to the host would wait for every batch.
            rows.append(forward(images).float())
            if advance is not None:
                advance(len(images))
        if not rows:
            return np.zeros((0, int(model.output_shape[-1])), np.float32)
        result: NDArray[np.float32] = torch.cat(rows).cpu().numpy()
    return result


def native_forward(model: keras.Model) -> Forward:
    """Returns a model's forward pass in inference mode, run natively.

    Not only for its speed: training leaves kernels laid out in another way in memory than a file does, and the last
    bits follow the layout. A native program lays them out alike wherever the model came from. Large batches are
    computed in parts (`kcv.native.footprint`).
    """
    from kcv.native.model import NativeModel, native_target

    native = NativeModel(model, target=native_target(model_device(model).type))
    return lambda images: native.forward_pass(images, training=False)


def model_device(model: keras.Model) -> torch.device:
    """Returns the torch device that a model's variables live on."""
    device: torch.device = model.variables[0].value.device
    return device
