"""Computes the logits of many images; training, evaluation and prediction all run a model this way."""

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
"""The largest default batch size, in images."""

_BATCH_BYTES = 64 * 2**20  # per batch of uint8 images; limited because several batches are read ahead


def batch_size_for(image_size: int) -> int:
    """Returns how many images to read per batch, fewer for large images; the model may compute them in smaller parts.

    All verbs share this rule, because the last bits of a logit may depend on the batch size, and evaluation must
    reproduce the metrics of training exactly.

    Args:
        image_size: side of the images, in pixels.
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
        model: maps RGB 0-255 [batch, size, size, 3] to logits.
        images: the split, at the model's size.
        batch_size: images per batch; by default `batch_size_for` their size. Affects speed and at most the last bits.
        workers: the number of processes that decode images that are not in memory.
        advance: called after each batch with its number of images.
        group: the processes that share the work; each of them gets all logits.
        forward: as for `logits_of_batches`.

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
        model: the model; its output is logits.
        batches: batches of images.
        forward: the model's forward pass from `native_forward`, if the caller reuses it across calls.
        advance: called after each batch with its number of images.
    """
    import torch

    forward = forward or native_forward(model)
    rows: list[torch.Tensor] = []
    with torch.inference_mode():
        for images in batches:
            # Results stay on the device until the end: a copy to the host per batch would block until it is computed.
            rows.append(forward(images).float())
            if advance is not None:
                advance(len(images))
        if not rows:
            return np.zeros((0, int(model.output_shape[-1])), np.float32)
        result: NDArray[np.float32] = torch.cat(rows).cpu().numpy()
    return result


def native_forward(model: keras.Model) -> Forward:
    """Returns a model's forward pass in inference mode, run natively.

    Speed is not the only reason: kernels have another memory layout after training than after loading a file, and the
    last bits depend on the layout. The native program uses the same layout in both cases. Large batches are computed
    in parts (`kcv.native.footprint`).
    """
    from kcv.native.model import NativeModel, native_target

    native = NativeModel(model, target=native_target(model_device(model).type, model))
    return lambda images: native.forward_pass(images, training=False)


def model_device(model: keras.Model) -> torch.device:
    """Returns the torch device that holds a model's variables."""
    device: torch.device = model.variables[0].value.device
    return device
