"""A classifier in an ONNX file, opened and run with onnxruntime and NumPy, without Keras or torch."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kcv.common import untrusted
from kcv.common.text import is_printable
from kcv.errors import ArtifactError, UsageError
from kcv.images import RESIZE_MODES
from kcv.inference import onnx_graph
from kcv.inference.class_maps import class_maps
from kcv.inference.classifier import Classifier, warn_of_plain_calibration
from kcv.inference.onnx_features import dense_input, with_output
from kcv.inference.onnx_graph import FLOAT, UINT8, Value
from kcv.inference.onnx_session import open_session
from kcv.inference.reference import Reference
from kcv.inference.tta import Tta, averaged
from kcv.metrics.conformal import PredictionSets
from kcv.metrics.temperature import TtaCalibrations, softmax

FORMAT_VERSION = 1
INPUT, LOGITS, PROBABILITIES = "image", "logits", "probabilities"
"""The names of the graph's input and outputs."""
FEATURES, CLASS_WEIGHTS = "features", "class_weights"
"""The names of the outputs for heat maps, where there are any: the last feature map, and the dense layer's kernel."""

_BATCH_PIXELS = 400_000
_MOST, _LEAST = 64, 4
_SLACK = 1e-3
"""Tolerance for probabilities; the float32 rounding error is a tenth of it for a million classes."""


@dataclass(frozen=True)
class OnnxInfo:
    """The description that an ONNX file holds in its metadata.

    Attributes:
        class_names: the class names, in the order of the outputs.
        image_size: side of the square input, in pixels.
        resize: how images of other sizes are resized to it.
        precision: precision of the weights and the computation: `float32` or `int8`.
        model_name: the architecture.
        data_name: the training data.
        data_fingerprint: SHA-256 (hex) of the training data.
        kcv_version: the version of kcv that wrote the file.
        temperature: the divisor of the logits before the softmax; the graph itself divides.
        threshold: the confidence (0-1) below which the label is `kcv.common.rows.UNSURE`; None to always name a class.
        weights_sha256: SHA-256 (hex) of the weights in the Keras file that it was exported from; empty if unknown.
        reference: how the model answered on the test split; None if that is not known.
        sets: which classes belong to the set of an image; None if there are no sets.
        tta: the test-time augmentation that the graph itself computes; None if there is none.
        tta_calibrations: calibrations of others, by their names.
    """

    class_names: tuple[str, ...]
    image_size: int
    resize: str
    precision: str
    model_name: str
    data_name: str
    data_fingerprint: str
    kcv_version: str
    temperature: float = 1.0
    threshold: float | None = None
    weights_sha256: str = ""
    reference: Reference | None = None
    sets: PredictionSets | None = None
    tta: str | None = None
    tta_calibrations: TtaCalibrations = field(default_factory=lambda: TtaCalibrations({}))

    def to_metadata(self) -> dict[str, str]:
        """Returns the metadata of the file, as text."""
        texts = {
            "kcv_format": str(FORMAT_VERSION),
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "image_size": str(self.image_size),
            "resize": self.resize,
            "precision": self.precision,
            "model_name": self.model_name,
            "data_name": self.data_name,
            "data_fingerprint": self.data_fingerprint,
            "kcv_version": self.kcv_version,
            "temperature": repr(self.temperature),
        }
        if self.threshold is not None:
            texts["threshold"] = repr(self.threshold)
        if self.weights_sha256:
            texts["weights_sha256"] = self.weights_sha256
        if self.reference is not None:
            texts["reference"] = self.reference.to_text()
        if self.sets is not None:
            texts["prediction_sets"] = self.sets.to_text()
        if self.tta is not None:
            texts["tta"] = self.tta
        if self.tta_calibrations.root:
            texts["tta_calibrations"] = self.tta_calibrations.model_dump_json()
        return texts

    @classmethod
    def from_metadata(cls, values: Mapping[str, str], origin: str) -> OnnxInfo:
        """Reads the metadata of a file.

        Raises:
            ArtifactError: the metadata is missing, damaged, or written by a newer kcv.
        """
        if "kcv_format" not in values:
            raise ArtifactError(f"{origin}: has no class names in its metadata: it was not exported by kcv")
        with untrusted.refusing(origin, ArtifactError, "its description is damaged"):
            return cls._read(values, origin)

    @classmethod
    def _read(cls, values: Mapping[str, str], origin: str) -> OnnxInfo:
        version = int(values["kcv_format"])
        if version > FORMAT_VERSION:
            message = f"written by a newer kcv (format {version}); this one reads {FORMAT_VERSION}"
            raise ArtifactError(f"{origin}: {message}")
        size = int(values["image_size"])
        names = json.loads(values["class_names"])
        temperature = float(values.get("temperature", 1))
        threshold = float(values["threshold"]) if "threshold" in values else None
        sound = isinstance(names, list) and len(names) >= 2 and all(isinstance(name, str) for name in names)
        sound = sound and len(set(names)) == len(names) and 1 <= size <= 4096
        sound = sound and all(map(is_printable, [*names, *values.values()]))
        # Written so that NaN fails each comparison.
        sound = sound and 0 < temperature < math.inf and (threshold is None or 0 <= threshold <= 1)
        if not sound or values.get("resize") not in RESIZE_MODES or values.get("tta", "flip") != "flip":
            raise ArtifactError(f"{origin}: its description is damaged")
        calibrations = values.get("tta_calibrations", "{}").encode()
        texts = ("resize", "precision", "model_name", "data_name", "data_fingerprint", "kcv_version")
        return cls(
            class_names=tuple(names),
            image_size=size,
            **{key: values.get(key, "") for key in texts},
            temperature=temperature,
            threshold=threshold,
            weights_sha256=values.get("weights_sha256", ""),
            reference=Reference.from_text(values["reference"], origin) if "reference" in values else None,
            sets=PredictionSets.from_text(values["prediction_sets"], origin) if "prediction_sets" in values else None,
            tta=values.get("tta"),
            tta_calibrations=untrusted.parse(calibrations, TtaCalibrations, origin, ArtifactError),
        )


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


class OnnxModel(Classifier):
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

    info: OnnxInfo

    def __init__(
        self, path: str | Path, *, device: str = "auto", threads: int | None = None, features: bool = False
    ) -> None:
        self.path = Path(path)
        self._threads = threads
        self._tta: Tta | None = None
        graph = onnx_graph.read_graph(self.path)
        self.info = OnnxInfo.from_metadata(graph.metadata, str(path))
        size = self.info.image_size
        answers = [(name, FLOAT, (None, len(self.class_names))) for name in (LOGITS, PROBABILITIES)]
        inputs, outputs = ([(v.name, v.element, v.shape) for v in side] for side in (graph.inputs, graph.outputs))
        if inputs != [(INPUT, UINT8, (None, size, size, 3))] or not all(answer in outputs for answer in answers):
            raise ArtifactError(f"{path}: its inputs and outputs are not what its description says")
        if self.info.reference and len(self.info.reference.predicted) not in (0, len(self.class_names)):
            raise ArtifactError(f"{path}: its description is damaged")
        self.has_heatmaps = self._are_heatmaps({v.name: (v.element, v.shape) for v in graph.outputs})
        with untrusted.refusing(self.path, ArtifactError, "cannot be opened as an ONNX model"):
            onnx_graph.check(graph, size * size)
        self._features = self._features_of(graph) if features else None
        content = None
        if self._features is not None and self._features not in [value.name for value in graph.outputs]:
            value = Value(self._features, FLOAT, (None, None))
            with untrusted.refusing(self.path, ArtifactError, "has no features before its logits"):
                onnx_graph.check(dataclasses.replace(graph, outputs=(*graph.outputs, value)), size * size)
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

    @property
    def preferred_batch(self) -> int:
        """The default number of images per batch: enough for one core; more would only take memory."""
        return min(_MOST, max(_LEAST, _BATCH_PIXELS // self.image_size**2))

    @property
    def concurrent(self) -> bool:
        """Whether several threads should call `predict_pixels` at the same time: True if a call uses one thread."""
        return self._threads == 1

    @property
    def tta_name(self) -> str | None:
        """The test-time augmentation whose views are averaged; None if there is none."""
        return self._tta.name if self._tta is not None else None

    def with_tta(self, tta: Tta) -> OnnxModel:
        """Returns this model with test-time augmentation; see `Classifier.with_tta`.

        Raises:
            UsageError: the file's graph averages views already.
        """
        if self.info.tta is not None:
            raise UsageError(f"--tta: {self.path} was exported with --tta={self.info.tta}, and averages by itself.")
        found = self.info.tta_calibrations.root.get(tta.name)
        if found is None:
            warn_of_plain_calibration(self.path, tta)
            info = dataclasses.replace(self.info, sets=None)
        else:
            info = dataclasses.replace(
                self.info, temperature=found.temperature, threshold=found.threshold, sets=found.sets
            )
        model = copy.copy(self)
        model.info, model._tta = info, tta
        return model

    def _probabilities(self, batches: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        rows = [self.run(batch)[1] for batch in batches]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.class_names)), np.float32)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], for images at the model's size, uint8 [n, size, size, 3].

        They are not checked and may be infinite or NaN.
        """
        size = self.preferred_batch
        return np.concatenate([self.compute(pixels[start : start + size])[0] for start in range(0, len(pixels), size)])

    def run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the logits and the probabilities, float32 [n, classes], for images at the model's size.

        Raises:
            ArtifactError: the file cannot be run, or its outputs are not probabilities.
        """
        logits, probabilities = self.compute(batch)
        if not _are_answers(logits, probabilities):
            raise ArtifactError(
                f"{self.path}: its answers are no probabilities (they are not between 0 and 1, or do not sum to one)"
            )
        return logits, probabilities

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
        if len(features) != len(batch) or not _are_answers(logits, probabilities):
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
        if not (np.isfinite(vectors).all() and _are_answers(logits, probabilities)):
            raise ArtifactError(f"{self.path}: its features or answers are no finite numbers; its weights are damaged")
        return vectors, probabilities

    def compute(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the logits and the probabilities of a batch like `run`, without checking their values.

        Raises:
            ArtifactError: the file cannot be run, or its outputs have another dtype or shape.
        """
        if self._tta is None:
            return self._computed(batch)
        views = self._tta.views(self.image_size)
        logits = averaged(lambda images: self._computed(images)[0], batch, views)
        with np.errstate(all="ignore"):  # logits may be infinite or NaN
            return logits, softmax(logits, self.info.temperature).astype(np.float32)

    def _computed(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        # As on opening, onnxruntime raises a different error class for each kind of damage.
        with untrusted.refusing(self.path, ArtifactError, "cannot be run"):
            logits, probabilities = self.session.run([LOGITS, PROBABILITIES], {INPUT: batch})
        expected = (np.dtype(np.float32), (len(batch), len(self.class_names)))
        if any((given.dtype, given.shape) != expected for given in (logits, probabilities)):
            raise ArtifactError(f"{self.path}: its answers are not of the size that its description says")
        return logits, probabilities


def _are_answers(logits: NDArray[np.float32], probabilities: NDArray[np.float32]) -> bool:
    """Returns whether logits are finite and probabilities lie between 0 and 1 and sum to one, up to rounding."""
    if not len(logits):
        return True
    with np.errstate(all="ignore"):
        sums = probabilities.sum(axis=1, dtype=np.float64)
        # Each comparison is false for NaN.
        return bool(
            np.isfinite(logits).all()
            and probabilities.min() >= -_SLACK
            and probabilities.max() <= 1 + _SLACK
            and np.abs(sums - 1).max() <= _SLACK
        )
