"""A classifier in an ONNX file, opened and run with onnxruntime and NumPy, without Keras or torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv.common import untrusted
from kcv.errors import ArtifactError
from kcv.inference import onnx_graph
from kcv.inference.class_maps import class_maps
from kcv.inference.exported import INPUT, LOGITS, PROBABILITIES, ExportedInfo, ExportedModel, are_answers
from kcv.inference.onnx_features import dense_input, with_output
from kcv.inference.onnx_graph import FLOAT, Value
from kcv.inference.onnx_session import open_session

__all__ = ["CLASS_WEIGHTS", "FEATURES", "INPUT", "LOGITS", "PROBABILITIES", "Explained", "OnnxInfo", "OnnxModel"]

FEATURES, CLASS_WEIGHTS = "features", "class_weights"
"""The names of the outputs for heat maps, where there are any: the last feature map, and the dense layer's kernel."""

OnnxInfo: TypeAlias = ExportedInfo
"""The description that an ONNX file holds in its metadata."""


@dataclass(frozen=True)
class Explained:
    """Heat maps of one batch.

    Attributes:
        maps: float32 [n, size, size] in 0-1.
        classes: the explained class of each image, int64 [n].
        probabilities: of all classes, float32 [n, classes].
    """

    maps: NDArray[np.float32]
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class OnnxModel(ExportedModel):
    """A classifier that kcv exported to ONNX.

    Args:
        path: the `.onnx` file.
        device: `auto` (CUDA if onnxruntime supports it here, otherwise the CPU), `cpu` or `cuda`.
        threads: threads per batch; None for one per core. With 1, several batches can be computed at the same time,
            each in the thread that calls `predict`.
        features: whether `features` will be called.

    Attributes:
        has_heatmaps: whether the file has what `explain` needs (`kcv export --heatmaps`).

    Raises:
        ArtifactError: the file is missing, damaged, or was not exported by kcv.
        DeviceError: onnxruntime cannot use the device.

    Example:
        >>> model = kcv.OnnxModel("runs/photos/model.onnx")
        >>> model.predict(["one.png", "two.png"])
    """

    def __init__(
        self, path: str | Path, *, device: str = "auto", threads: int | None = None, features: bool = False
    ) -> None:
        self.path = Path(path)
        self._threads = threads
        graph = onnx_graph.read_graph(self.path)
        self.info = ExportedInfo.from_metadata(graph.metadata, str(path))
        self._check_interface(graph)
        self.has_heatmaps = self._are_heatmaps({v.name: (v.element, v.shape) for v in graph.outputs})
        pixels = self.image_size**2
        with untrusted.refusing(self.path, ArtifactError, "cannot be opened as an ONNX model"):
            onnx_graph.check(graph, pixels)
        self._features = self._features_of(graph) if features else None
        content = None
        if self._features is not None and self._features not in [value.name for value in graph.outputs]:
            value = Value(self._features, FLOAT, (None, None))
            with untrusted.refusing(self.path, ArtifactError, "has no features before its logits"):
                onnx_graph.check(dataclasses.replace(graph, outputs=(*graph.outputs, value)), pixels)
                content = with_output(self.path.read_bytes(), self._features)
        self.session = open_session(self.path, device=device, threads=threads, content=content)

    def _are_heatmaps(self, outputs: Mapping[str, tuple[int, tuple[int | None, ...]]]) -> bool:
        """Returns whether the file has the outputs for heat maps. Raises ArtifactError if they do not fit together."""
        given = [name for name in (FEATURES, CLASS_WEIGHTS) if name in outputs]
        if not given:
            return False
        if len(given) == 2:
            (kind, features), (weight_kind, weights) = outputs[FEATURES], outputs[CLASS_WEIGHTS]
            fits = (kind, weight_kind) == (FLOAT, FLOAT) and len(features) == 4 and features[0] is None
            if fits and None not in features[1:] and weights == (features[1], len(self.class_names)):
                return True
        raise ArtifactError(f"{self.path}: its outputs for heat maps are not what its description says")

    @cached_property
    def _class_weights(self) -> NDArray[np.float32]:
        blank = np.zeros((1, self.image_size, self.image_size, 3), np.uint8)
        with untrusted.refusing(self.path, ArtifactError, "cannot be run"):
            (weights,) = self.session.run([CLASS_WEIGHTS], {INPUT: blank})
        return np.asarray(weights, np.float32)

    def explain(self, batch: NDArray[np.uint8], position: int | None = None) -> Explained:
        """Classifies a batch, and returns where the features are that speak for a class; see `class_maps`.

        Args:
            batch: RGB, uint8 [n, size, size, 3].
            position: the class to explain; None for the most probable one of each image.

        Raises:
            ArtifactError: the file cannot be run, its outputs are not probabilities, or it has no heat maps.
        """
        if not self.has_heatmaps:
            raise ArtifactError(f"{self.path}: has no heat maps; `kcv export --heatmaps` adds them")
        with untrusted.refusing(self.path, ArtifactError, "cannot be run"):
            logits, probabilities, features = self.session.run([LOGITS, PROBABILITIES, FEATURES], {INPUT: batch})
        if len(features) != len(batch) or not are_answers(logits, probabilities):
            raise ArtifactError(f"{self.path}: its answers are no probabilities")
        classes = probabilities.argmax(axis=1) if position is None else np.full(len(batch), position)
        maps = class_maps(features, self._class_weights, classes.astype(np.int64), self.image_size)
        return Explained(maps, classes.astype(np.int64), probabilities)

    def _features_of(self, graph: onnx_graph.Graph) -> str:
        """Returns the name of the input of the last dense layer."""
        if self.info.tta is not None:
            raise ArtifactError(f"{self.path}: averages the logits of --tta={self.info.tta}, so it has no features")
        return dense_input(graph, LOGITS, str(self.path))

    def features(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the input of the last dense layer, float32 [n, width], and the probabilities, float32 [n, classes].

        Only of a model that was opened with `features`.

        Args:
            batch: RGB, uint8 [n, size, size, 3].

        Raises:
            ArtifactError: the file cannot be run, or its outputs are not features and probabilities.
        """
        assert self._features is not None
        with untrusted.refusing(self.path, ArtifactError, "cannot be run"):
            found = self.session.run([self._features, LOGITS, PROBABILITIES], {INPUT: batch})
        vectors, logits, probabilities = found
        shape = (len(batch), len(self.class_names))
        fits = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == len(batch)
        if not fits or any(given.shape != shape for given in (logits, probabilities)):
            raise ArtifactError(f"{self.path}: its answers are not of the size that its description says")
        if not (np.isfinite(vectors).all() and are_answers(logits, probabilities)):
            raise ArtifactError(f"{self.path}: its features or answers are no finite numbers; its weights are damaged")
        return vectors, probabilities

    def _computed(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        # As on opening, onnxruntime raises a different error class for each kind of damage.
        with untrusted.refusing(self.path, ArtifactError, "cannot be run"):
            logits, probabilities = self.session.run([LOGITS, PROBABILITIES], {INPUT: batch})
        self._sized((logits, probabilities), len(batch))
        return logits, probabilities
