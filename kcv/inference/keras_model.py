"""A loaded Keras model with the description from its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv.artifact.info import ArtifactInfo
from kcv.common.untrusted import refusing
from kcv.errors import ArtifactError
from kcv.inference import outputs
from kcv.inference.classifier import Classifier, warn_of_plain_calibration
from kcv.inference.outputs import BATCH_SIZE, Forward, model_device, native_forward
from kcv.inference.tta import Tta, averaged
from kcv.metrics.conformal import PredictionSets
from kcv.metrics.temperature import Calibration
from kcv.native.precision import in_float32

if TYPE_CHECKING:
    import keras
    import torch

    from kcv.data.dataset import Images
    from kcv.distributed.group import Group

_FAILED = "cannot be run"
_BATCH_PIXELS = 2**20
_SMALLEST_BATCH = 8


@dataclass(frozen=True)
class LoadedModel(Classifier):
    """A Keras classifier that is ready to use.

    Attributes:
        path: the file it was loaded from.
        info: the description in the file.
        keras_model: the Keras model; maps RGB 0-255 [batch, image_size, image_size, 3] to logits.
        tta: the test-time augmentation whose views are averaged; None for the images themselves.
    """

    path: Path
    info: ArtifactInfo
    keras_model: keras.Model
    tta: Tta | None = None

    @property
    def calibration(self) -> Calibration:
        """How logits become probabilities; plain softmax if no calibration was fitted."""
        plain = self.info.calibration or Calibration()
        if self.tta is None:
            return plain
        return self.info.tta.root.get(self.tta.name) or plain.of_other_logits()

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which the model abstains; None if it never abstains."""
        return self.calibration.threshold

    @property
    def sets(self) -> PredictionSets | None:
        """Which classes belong to the set of an image; None if there are no sets."""
        return self.calibration.sets

    @property
    def tta_name(self) -> str | None:
        """The test-time augmentation whose views are averaged; None if there is none."""
        return self.tta.name if self.tta is not None else None

    def with_tta(self, tta: Tta) -> LoadedModel:
        """Returns this model with test-time augmentation; see `Classifier.with_tta`."""
        if tta.name not in self.info.tta.root:
            warn_of_plain_calibration(self.path, tta)
        return replace(self, tta=tta)

    @property
    def preferred_batch(self) -> int:
        """The default number of images per batch; smaller for larger images."""
        return min(BATCH_SIZE, max(_SMALLEST_BATCH, _BATCH_PIXELS // self.image_size**2))

    @property
    def concurrent(self) -> bool:
        """Whether several threads should call `predict_pixels` at the same time: False, each batch uses all cores."""
        return False

    @cached_property
    def forward(self) -> Forward:
        """The forward pass in float32, from RGB 0-255 [n, image_size, image_size, 3] to logits [n, classes].

        Because it is always float32, all verbs and the exported ONNX file give the same result for an image,
        regardless of the precision the model was trained in.

        Raises:
            ArtifactError: the model cannot be run. Calling the forward pass may raise it, too.
        """
        with refusing(self.path, ArtifactError, _FAILED):
            native = native_forward(in_float32(self.keras_model))

        def run(images: torch.Tensor) -> torch.Tensor:
            with refusing(self.path, ArtifactError, _FAILED):
                logits = native(images)
                if tuple(logits.shape) != (len(images), len(self.class_names)):
                    raise ArtifactError(f"{self.path}: gives {list(logits.shape)} for {len(images)} images")
                return logits

        if self.tta is None:
            return run
        views = self.tta.views(self.image_size, mirrored=self.info.mirrored)
        return lambda images: averaged(run, images, views)

    def logits(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        advance: Callable[[int], object] | None = None,
        group: Group | None = None,
    ) -> NDArray[np.float32]:
        """Runs the model over one split, in float32; see `kcv.inference.outputs.logits`.

        Raises:
            ArtifactError: the model cannot be run, or its logits are not all finite.
        """
        rows = outputs.logits(
            self.keras_model,
            images,
            batch_size=batch_size,
            workers=workers,
            advance=advance,
            group=group,
            forward=self.forward,
        )
        return self.finite(rows)

    def finite(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns logits unchanged after checking that they are finite.

        Raises:
            ArtifactError: a logit is infinite or NaN, because a weight is, or because a weight is so large that sums
                overflow.
        """
        if not np.isfinite(logits).all():
            raise ArtifactError(f"{self.path}: gives logits that are no finite numbers; its weights are damaged")
        return logits

    def _probabilities(self, batches: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        import torch

        device = model_device(self.keras_model)
        tensors = (torch.from_numpy(batch).to(device) for batch in batches)
        logits = outputs.logits_of_batches(self.keras_model, tensors, forward=self.forward)
        return self.calibration.probabilities(self.finite(logits)).astype(np.float32)
