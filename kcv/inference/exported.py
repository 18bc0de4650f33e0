"""What all exported files have in common: the description that they hold, and a classifier that runs one.

A file of any format maps `image`, uint8 [batch, size, size, 3], to `logits` and `probabilities`, float32
[batch, classes], and holds the texts of `ExportedInfo`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kcv.common import untrusted
from kcv.common.text import is_printable
from kcv.errors import ArtifactError, UsageError
from kcv.images import RESIZE_MODES
from kcv.inference.classifier import Classifier, warn_of_plain_calibration
from kcv.inference.onnx_graph import FLOAT, UINT8, Graph
from kcv.inference.reference import Reference
from kcv.inference.tta import Tta, averaged
from kcv.metrics.conformal import PredictionSets
from kcv.metrics.temperature import TtaCalibrations, softmax

FORMAT_VERSION = 1
INPUT, LOGITS, PROBABILITIES = "image", "logits", "probabilities"
"""The names of the input and the outputs."""

_BATCH_PIXELS = 400_000
_LEAST, _MOST, _MOST_OF_INT8 = 4, 32, 64
"""The fewest and the most images of a batch. More take memory and are no faster: `kcv serve`, custom CNN in float32, on
two cores, answers 1,142 images/s with 255 MB in batches of up to 64, and 1,139 with 194 MB in those of up to 32."""

_SLACK = 1e-3
"""Tolerance for probabilities; the float32 rounding error is a tenth of it for a million classes."""


@dataclass(frozen=True)
class ExportedInfo:
    """The description that an exported file holds: an ONNX file in its metadata.

    Other formats hold the same texts.

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
        mirrored: whether the training images were mirrored at random; False in files that do not say so.
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
    mirrored: bool = False

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
        if self.mirrored:
            texts["mirrored"] = "true"
        return texts

    @classmethod
    def from_metadata(cls, values: Mapping[str, str], origin: str) -> ExportedInfo:
        """Reads the metadata of a file.

        Raises:
            ArtifactError: the metadata is missing, damaged, or written by a newer kcv.
        """
        if "kcv_format" not in values:
            raise ArtifactError(f"{origin}: has no class names in its metadata: it was not exported by kcv")
        with untrusted.refusing(origin, ArtifactError, "its description is damaged"):
            return cls._read(values, origin)

    @classmethod
    def _read(cls, values: Mapping[str, str], origin: str) -> ExportedInfo:
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
            mirrored=values.get("mirrored") == "true",
        )


class ExportedModel(Classifier):
    """A classifier in a file that kcv exported.

    A subclass opens the file, sets what is below, and provides `_computed`.

    Attributes:
        path: the file.
        info: its description.
    """

    path: Path
    info: ExportedInfo
    _threads: int | None = None
    _tta: Tta | None = None

    @abstractmethod
    def _computed(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns what the file says of a batch: logits and probabilities, float32 [n, classes], not checked.

        Raises:
            ArtifactError: the file cannot be run, or its outputs have another dtype or shape.
        """

    def _check_interface(self, graph: Graph) -> None:
        """Checks that a graph takes and gives what the description says.

        Raises:
            ArtifactError: it does not.
        """
        size = self.info.image_size
        answers = [(name, FLOAT, (None, len(self.class_names))) for name in (LOGITS, PROBABILITIES)]
        inputs, outputs = ([(v.name, v.element, v.shape) for v in side] for side in (graph.inputs, graph.outputs))
        if inputs != [(INPUT, UINT8, (None, size, size, 3))] or not all(answer in outputs for answer in answers):
            raise ArtifactError(f"{self.path}: its inputs and outputs are not what its description says")
        if self.info.reference and len(self.info.reference.predicted) not in (0, len(self.class_names)):
            raise ArtifactError(f"{self.path}: its description is damaged")

    def _sized(self, answers: Iterable[NDArray[np.float32]], count: int) -> None:
        """Raises ArtifactError if answers about `count` images are not of the size that the description says."""
        expected = (np.dtype(np.float32), (count, len(self.class_names)))
        if any((given.dtype, given.shape) != expected for given in answers):
            raise ArtifactError(f"{self.path}: its answers are not of the size that its description says")

    @property
    def preferred_batch(self) -> int:
        """The default number of images per batch: enough for one core; more would only take memory."""
        most = _MOST_OF_INT8 if self.info.precision == "int8" else _MOST
        return min(most, max(_LEAST, _BATCH_PIXELS // self.image_size**2))

    @property
    def concurrent(self) -> bool:
        """Whether several threads should call `predict_pixels` at the same time: True if a call uses one thread."""
        return self._threads == 1

    @property
    def tta_name(self) -> str | None:
        """The test-time augmentation whose views are averaged; None if there is none."""
        return self._tta.name if self._tta is not None else None

    def with_tta(self, tta: Tta) -> Self:
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
        if not are_answers(logits, probabilities):
            raise ArtifactError(
                f"{self.path}: its answers are no probabilities (they are not between 0 and 1, or do not sum to one)"
            )
        return logits, probabilities

    def compute(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the logits and the probabilities of a batch like `run`, without checking their values.

        Raises:
            ArtifactError: the file cannot be run, or its outputs have another dtype or shape.
        """
        if self._tta is None:
            return self._computed(batch)
        views = self._tta.views(self.image_size, mirrored=self.info.mirrored)
        logits = averaged(lambda images: self._computed(images)[0], batch, views)
        with np.errstate(all="ignore"):  # logits may be infinite or NaN
            return logits, softmax(logits, self.info.temperature).astype(np.float32)


def are_answers(logits: NDArray[np.float32], probabilities: NDArray[np.float32]) -> bool:
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
