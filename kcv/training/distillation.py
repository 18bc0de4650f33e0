"""Distillation: a finished model teaches a new one, by its answers to the same augmented images.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015, arXiv:1503.02531): the training loss is
(1 - w) cross-entropy + w T^2 KL(teacher || student), with both softened by a temperature T; T^2 keeps the size of the
gradients. The teacher sees each image as the student does, crop, mixture and all (Beyer et al. 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from kcv import artifact
from kcv.common.files import model_file
from kcv.common.model_reference import is_reference
from kcv.common.text import printable, shortened
from kcv.config import OptimConfig
from kcv.errors import ArtifactError, DataError, UsageError
from kcv.inference import opening
from kcv.inference.classifier import is_onnx
from kcv.inference.outputs import Forward, model_device, native_forward
from kcv.native.precision import in_float32
from kcv.training.loss import Loss, cross_entropy

ImageLoss: TypeAlias = Callable[[Any, Tensor, Tensor], Tensor]
"""From images, targets and logits to the mean loss of a batch, a float32 scalar."""


@dataclass(frozen=True)
class Teacher:
    """A finished model that a new one learns from.

    Attributes:
        digest: SHA-256 (hex) of its weights.
        size: side of its images, in pixels.
        forward: its forward pass in float32, from RGB 0-255 [b, size, size, 3] to logits.
        order: the columns of its logits in the order of the student's classes, int64 [classes].
    """

    digest: str
    size: int
    forward: Forward
    order: Tensor

    def logits(self, images: Tensor) -> Tensor:
        """Returns its logits for images, RGB 0-255 [b, s, s, 3] of any s: float32 [b, classes], without gradients."""
        with torch.no_grad():
            return self.forward(resized(images, self.size)).float()[:, self.order]


def open_teacher(named: str, class_names: Sequence[str], device: str, folder: Path, digest: str | None) -> Teacher:
    """Opens the model that `train.teacher` names.

    Args:
        named: a model file or a run folder.
        class_names: the classes of the student, in its order.
        device: the device of the training.
        folder: what a relative path starts from.
        digest: the weights that the run began with; None for a new run.

    Raises:
        UsageError: it is no Keras file, or holds other weights than when the run began.
        ArtifactError: it cannot be opened.
        DataError: it knows other classes.
    """
    shown = printable(shortened(named))
    if is_reference(named):
        raise UsageError(f"train.teacher: {shown} is no file; allowed: a model file (.keras) or a run folder.")
    path = model_file(folder / Path(named).expanduser())
    if is_onnx(path):
        raise UsageError(f"train.teacher: {shown} is an ONNX file; allowed: the .keras file it was exported from.")
    loaded = opening.load(path, device=device)
    found = artifact.weights_digest(path)
    if digest is not None and digest != found:
        raise UsageError(f"--resume: train.teacher: {shown} holds other weights than when the run began.")
    if different := set(class_names) ^ set(loaded.class_names):
        some = ", ".join(sorted(different)[:5])
        raise DataError(f"train.teacher: {shown} and the data do not know the same classes; only one knows: {some}.")
    model = in_float32(loaded.keras_model)
    try:
        forward = native_forward(model)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be run ({error})") from None
    columns = [loaded.class_names.index(name) for name in class_names]
    order = torch.tensor(columns, device=model_device(model))
    return Teacher(found, loaded.image_size, forward, order)


def distilled(teacher: Teacher, base: Loss | None, config: OptimConfig) -> ImageLoss:
    """Returns the training loss of a student.

    Args:
        teacher: the teacher.
        base: the loss on the targets, as `build_loss` returns it.
        config: temperature and weight of the distillation.
    """
    temperature, weight = config.distill_temperature, config.distill_weight

    def loss(images: Any, targets: Tensor, logits: Tensor) -> Tensor:
        logits = logits.float()
        on_targets = base(targets, logits) if base is not None else cross_entropy(targets, logits).mean()
        return (1 - weight) * on_targets + weight * distillation_loss(logits, teacher.logits(images), temperature)

    return loss


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns T^2 KL(teacher || student) of logits over a temperature T, in nats, the mean of a batch.

    Args:
        student: logits, float32 [b, classes].
        teacher: logits, float32 [b, classes].
        temperature: T, above 0.
    """
    log_student = torch.log_softmax(student / temperature, dim=1)
    log_teacher = torch.log_softmax(teacher / temperature, dim=1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    return temperature**2 * divergence.mean()


def resized(images: Tensor, size: int) -> Tensor:
    """Returns images at another size, on their device; those of the same size as they are.

    Args:
        images: RGB 0-255, [b, s, s, 3].
        size: the new side, in pixels.
    """
    if images.shape[1] == size:
        return images
    planes = images.permute(0, 3, 1, 2).float()
    made = functional.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return made.clamp(0, 255).permute(0, 2, 3, 1)
