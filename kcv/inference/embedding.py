"""Feature vectors of images: what a model computes before its logits, from both kinds of model file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv.common.files import sha256_of
from kcv.common.untrusted import refusing
from kcv.errors import ArtifactError, ImageError
from kcv.images.urls import Image
from kcv.inference.classifier import Classifier, is_onnx
from kcv.inference.prediction import Decoded, Job
from kcv.inference.vector_file import Origin

if TYPE_CHECKING:
    from kcv.inference.keras_model import LoadedModel

Embed: TypeAlias = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Images at the model's size to feature vectors, float32 [n, width], and probabilities, float32 [n, classes]."""


@dataclass(frozen=True)
class Embedder:
    """A model that gives the feature vector of an image: the input of its last dense layer.

    Attributes:
        model: the classifier.
        origin: what the vectors are of, for the file that they are written to.
        run: computes a batch.
    """

    model: Classifier
    origin: Origin
    run: Embed


def open_embedder(path: Path, *, device: str = "auto", threads: int | None = None) -> Embedder:
    """Opens a model file for its feature vectors. An ONNX file needs neither Keras nor torch.

    Args:
        path: a `.onnx` file; any other suffix means a Keras model.
        device: the device to run on.
        threads: as in `OnnxModel`.

    Raises:
        ArtifactError: the file cannot be opened, or its last layer is not a dense one.
        DeviceError: the device is not available.
    """
    return _of_onnx(path, device, threads) if is_onnx(path) else _of_keras(path, device)


def _of_onnx(path: Path, device: str, threads: int | None) -> Embedder:
    from kcv.inference.onnx_model import OnnxModel

    model = OnnxModel(path, device=device, threads=threads, features=True)
    blank = np.zeros((1, model.image_size, model.image_size, 3), np.uint8)
    width = model.features(blank)[0].shape[1]
    info = model.info
    weights = info.weights_sha256 or sha256_of(path)
    return Embedder(model, Origin(weights_sha256=weights, precision=info.precision, width=width), model.features)


def _of_keras(path: Path, device: str) -> Embedder:
    from kcv import artifact
    from kcv.inference import opening

    loaded = opening.load(path, device=device)
    forward, width = _feature_forward(loaded)
    origin = Origin(weights_sha256=artifact.weights_digest(path), precision="float32", width=width)
    return Embedder(loaded, origin, forward)


def _feature_forward(loaded: LoadedModel) -> tuple[Embed, int]:
    """Returns what computes feature vectors and probabilities, and how many numbers a vector has."""
    import keras
    import torch

    from kcv.inference.outputs import logits_of_batches, model_device, native_forward
    from kcv.native.precision import in_float32

    model, path = loaded.keras_model, loaded.path
    last = model.layers[-1]
    plain = isinstance(last, keras.layers.Dense) and last.activation is keras.activations.linear
    if not plain or len(last.input.shape) != 2:
        raise ArtifactError(f"{path}: its last layer is no dense layer, whose input the features are")
    with refusing(path, ArtifactError, "cannot be run"):
        backbone = in_float32(keras.Model(model.inputs, last.input))
        forward = native_forward(backbone)
    kernel, bias = (np.asarray(keras.ops.convert_to_numpy(w), np.float32) if w is not None else np.float32(0)
                    for w in (last.kernel, last.bias if last.use_bias else None))  # fmt: skip
    device = model_device(model)

    def run(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with refusing(path, ArtifactError, "cannot be run"):
            given = [torch.from_numpy(pixels).to(device)]
            vectors = loaded.finite(logits_of_batches(backbone, given, forward=forward))
        logits = loaded.finite(np.asarray(vectors @ kernel + bias, np.float32))
        return vectors, loaded.calibration.probabilities(logits).astype(np.float32)

    return run, int(last.input.shape[1])


@dataclass(frozen=True)
class EmbeddingJob(Job):
    """The work on each batch of files: like a prediction, with the vectors beside the answers.

    Attributes:
        embedder: the model.
    """

    embedder: Embedder

    @classmethod
    def of(cls, embedder: Embedder, batch_size: int | None) -> EmbeddingJob:
        """Returns the work of a model; by default in batches that its kind prefers."""
        size = batch_size or embedder.model.preferred_batch
        return cls(embedder.model, top_k=1, batch_size=size, threshold=None, embedder=embedder)

    @property
    def columns(self) -> list[str]:
        """The keys of a row, in order."""
        return ["path", "vector", "label", "confidence", "error"]

    def classify(self, files: Sequence[Image], decoded: Sequence[Decoded]) -> list[dict[str, Any]]:
        """Returns the rows of decoded images; `vector` is float32 [width]."""
        pixels = [image for image in decoded if not isinstance(image, ImageError)]
        found = iter(zip(*self.embedder.run(np.stack(pixels)), strict=True) if pixels else ())
        names = self.model.class_names
        rows: list[dict[str, Any]] = []
        for path, image in zip(files, decoded, strict=True):
            row: dict[str, Any] = {**dict.fromkeys(self.columns), "path": str(path), "error": ""}
            if isinstance(image, ImageError):
                row["error"] = str(image)
            else:
                vector, scores = next(found)
                at = int(scores.argmax())
                row |= {"vector": vector, "label": names[at], "confidence": float(scores[at])}
            rows.append(row)
        return rows
