"""Heat maps of batches: a forward pass split in two at one layer, with gradients of the second part only."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.common.untrusted import refusing
from kcv.errors import ArtifactError, UsageError, nearest
from kcv.images import stack
from kcv.inference import opening
from kcv.inference.keras_model import LoadedModel
from kcv.inference.locating import model_file
from kcv.inference.outputs import model_device
from kcv.native.check import check
from kcv.native.footprint import bytes_of_program, images_at_once
from kcv.native.layers.lowered import Unsupported
from kcv.native.lowering import lower
from kcv.native.model import native_target
from kcv.native.precision import in_float32
from kcv.saliency.classes import class_position
from kcv.saliency.explanation import Explanation
from kcv.saliency.layers import FeatureMap, choose, feature_maps
from kcv.saliency.methods import METHODS, heatmaps

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Explained:
    """The result for one batch, on the model's device.

    Attributes:
        maps: by method, float32 [n, height, width] in 0-1, at the size of the model's input. A map is zero everywhere
            if no part of the image supports the class more than another.
        classes: the explained class of each image, int64 [n].
        logits: float32 [n, classes].
    """

    maps: dict[str, Tensor]
    classes: Tensor
    logits: Tensor


class Explainer:
    """Explains a model at one layer.

    All layers up to that one run without gradients. Its output is a new leaf, and only the layers after it (usually
    pooling and a dense layer) are differentiated. A frozen backbone therefore makes no difference, and a map costs
    little more than a forward pass. Everything is computed in float32, regardless of the training precision.

    Args:
        model: functional; maps RGB 0-255 [batch, height, width, 3] to logits.
        layer: the layer to explain; by default the last with height and width (see `kcv.saliency.layers.choose`).

    Attributes:
        target: the layer's output.

    Raises:
        UsageError: the model is not a graph of layers, or the layer does not exist or has no height and width.
    """

    def __init__(self, model: keras.Model, *, layer: str | None = None) -> None:
        self._device = model_device(model)
        self._size: tuple[int, int] = tuple(model.input_shape[1:3])
        model = in_float32(model)
        try:
            target = replace(native_target(self._device.type, model), keeps_layers=True)
            self._program = lower(model, target)
        except Unsupported as reason:
            raise UsageError(f"the model cannot be explained: {reason}.") from None
        try:
            check(self._program, model)
        except Unsupported:
            self._program = self._program.through_keras()
        blank = torch.zeros(1, *self._size, 3, device=self._device)
        self.target: FeatureMap = choose(feature_maps(self._program, blank), layer)
        self._at_once = images_at_once(bytes_of_program(self._program, kept_from=self.target.after))

    def explain(
        self,
        images: Tensor | NDArray[np.uint8],
        *,
        classes: Tensor | Sequence[int] | None = None,
        methods: Sequence[str] = ("gradcam",),
    ) -> Explained:
        """Explains one batch by several methods at the cost of one; in parts if it needs much memory.

        Args:
            images: RGB 0-255 [n, height, width, 3].
            classes: the class to explain for each image, integer [n]; by default the most probable one.
            methods: names from `METHODS`.
        """
        # The caller may be in inference mode, whose tensors cannot be differentiated.
        with torch.inference_mode(False):
            given = None if classes is None else torch.as_tensor(classes, device=self._device).long()
            parts = [
                self._explain(
                    torch.as_tensor(images[start : start + self._at_once]),
                    None if given is None else given[start : start + self._at_once],
                    methods,
                )
                for start in range(0, max(1, len(images)), self._at_once)
            ]
        if len(parts) == 1:
            return parts[0]
        return Explained(
            {method: torch.cat([part.maps[method] for part in parts]) for method in methods},
            torch.cat([part.classes for part in parts]),
            torch.cat([part.logits for part in parts]),
        )

    def _explain(self, images: Tensor, classes: Tensor | None, methods: Sequence[str]) -> Explained:
        program, target = self._program, self.target
        values = program.start((images.to(self._device),))
        with torch.no_grad():
            program.advance(values, 0, target.after, training=False)
        leaf = values[target.place].detach().requires_grad_(True)
        with torch.enable_grad():
            values[target.place] = leaf.clone()  # the next step may overwrite it
            program.advance(values, target.after, len(program.steps), training=False)
            logits = program.results(values).float()
            chosen = logits.argmax(1) if classes is None else classes
            # At inference, images do not affect each other, so the gradient of the sum contains that of each image.
            (gradients,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
        with torch.no_grad():
            a, g = (x.detach().float().movedim(target.channels, 1) for x in (leaf, gradients))
            maps = {method: heatmaps(METHODS[method](a, g), self._size) for method in methods}
        return Explained(maps, chosen, logits.detach())


class KerasExplaining:
    """Explains batches of images by one method; implements `Explaining`.

    Args:
        model: the model.
        method: a name from `METHODS`.
        layer: the layer to explain; None for the last one with height and width.

    Raises:
        ArtifactError: the model cannot be run.
        UsageError: there is no such method or layer.
    """

    def __init__(self, model: LoadedModel, method: str, layer: str | None = None) -> None:
        check_method(method)
        self._model, self._method = model, method
        self._explainer = explainer_of(model, layer)

    @property
    def note(self) -> str:
        """The method and the layer, for a heading."""
        return f"{self._method} at {self._explainer.target.layer}"

    def explain(self, pixels: NDArray[np.uint8], position: int | None) -> Explanation:
        """Explains one batch; see `Explaining`."""
        positions = None if position is None else [position] * len(pixels)
        with refusing(self._model.path, ArtifactError, "cannot be explained"):
            done = self._explainer.explain(pixels, classes=positions, methods=[self._method])
        logits = self._model.finite(done.logits.cpu().numpy())
        classes = done.classes.cpu().numpy()
        probabilities = self._model.calibration.probabilities(logits)[np.arange(len(pixels)), classes]
        return Explanation(done.maps[self._method].cpu().numpy(), classes, probabilities)


def gradcam(
    model: str | Path | LoadedModel,
    images: NDArray[np.uint8] | str | Path | Sequence[str | Path | NDArray[np.uint8]],
    *,
    class_name: str | None = None,
    method: str = "gradcam",
    layer: str | None = None,
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """Returns heat maps of the regions of images that support a class.

    Args:
        model: a `.keras` file, a run folder, a model in MLflow or the Hub, or a loaded model.
        images: RGB, uint8 [n, height, width, 3], or paths, or single images [height, width, 3].
        class_name: the class to explain; by default the most probable class of each image.
        method: `gradcam`, `gradcam++`, `hirescam` or `layercam`.
        layer: the layer to explain; by default the last one with height and width.
        batch_size: images per batch; by default chosen by the image size.

    Returns:
        Heat maps, float32 [n, image_size, image_size] in 0-1. Each is scaled to the range 0 to 1, or zero everywhere
        if no part of the image supports the class more than another.

    Raises:
        ArtifactError: the model cannot be opened or run.
        UsageError: there is no such class, method or layer.
        ImageError: an image cannot be read; the message names the first one.

    Example:
        >>> heatmaps = kcv.gradcam("runs/photos/model.keras", ["a.jpg", "b.jpg"], class_name="cat")
    """
    check_method(method)
    loaded = model if isinstance(model, LoadedModel) else opening.load(model_file(model))
    position = class_position(loaded, class_name)
    given = [images] if isinstance(images, str | Path) else images
    size, step = loaded.image_size, batch_size or loaded.preferred_batch
    maps = np.zeros((len(given), size, size), np.float32)
    if len(given):
        explainer = explainer_of(loaded, layer)
        for start in range(0, len(given), step):
            batch = stack(given[start : start + step], size, loaded.resize)
            classes = None if position is None else [position] * len(batch)
            with refusing(loaded.path, ArtifactError, "cannot be explained"):
                done = explainer.explain(batch, classes=classes, methods=[method])
            loaded.finite(done.logits.cpu().numpy())
            maps[start : start + step] = done.maps[method].cpu()
    return maps


_KEPT: weakref.WeakKeyDictionary[keras.Model, dict[str | None, Explainer]] = weakref.WeakKeyDictionary()


def explainer_of(loaded: LoadedModel, layer: str | None) -> Explainer:
    """Returns a model's explainer, created once per requested layer.

    Raises:
        ArtifactError: the model cannot be run.
        UsageError: as for `Explainer`.
    """
    kept = _KEPT.setdefault(loaded.keras_model, {})
    if layer not in kept:
        with refusing(loaded.path, ArtifactError, "cannot be explained"):
            kept[layer] = Explainer(loaded.keras_model, layer=layer)
    return kept[layer]


def check_method(method: str) -> None:
    """Raises UsageError with the closest valid name if there is no such method."""
    if method not in METHODS:
        raise UsageError(f"--method: received {method!r}, allowed: {', '.join(METHODS)}.{nearest(method, METHODS)}")
