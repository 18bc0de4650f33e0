"""A classifier in an ONNX file: opened and run with onnxruntime and NumPy, without Keras or torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv import images as pictures
from kcv.errors import ArtifactError, first_line
from kcv.names import is_plain
from kcv.onnx_session import open_session

FORMAT_VERSION = 1
INPUT, LOGITS, PROBABILITIES = "image", "logits", "probabilities"
"""The names of what goes in and comes out."""

_BATCH_PIXELS = 400_000
_MOST, _LEAST = 64, 4


@dataclass(frozen=True)
class OnnxInfo:
    """What an ONNX file says of itself, in its metadata.

    Attributes:
        class_names: the classes, in the order of the outputs.
        image_size: side of the square input, in pixels.
        resize: how pictures of other sizes are brought to it.
        precision: of its weights and computation: `float32` or `int8`.
        model_name: the architecture.
        data_name: what it was trained on.
        data_fingerprint: SHA-256 (hex) of that.
        kcv_version: of the kcv that wrote it.
        temperature: what logits are divided by on their way to the probabilities; the graph does it.
        threshold: the confidence (0-1) below which the answer is `kcv.classifier.UNSURE`; None: always answer.
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

    def to_metadata(self) -> dict[str, str]:
        """Returns the texts that the file holds."""
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
        return texts if self.threshold is None else {**texts, "threshold": repr(self.threshold)}

    @classmethod
    def from_metadata(cls, values: Mapping[str, str], origin: str) -> OnnxInfo:
        """Reads the texts of a file.

        Raises:
            ArtifactError: they are missing, damaged, or of a newer kcv.
        """
        if "kcv_format" not in values:
            raise ArtifactError(f"{origin}: has no class names in its metadata: it was not exported by kcv")
        try:
            version = int(values["kcv_format"])
            if version > FORMAT_VERSION:
                message = f"written by a newer kcv (format {version}); this one reads {FORMAT_VERSION}"
                raise ArtifactError(f"{origin}: {message}")
            size = int(values["image_size"])
            names = json.loads(values["class_names"])
            temperature = float(values.get("temperature", 1))
            threshold = float(values["threshold"]) if "threshold" in values else None
        except (KeyError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{origin}: its description is damaged: {error}") from None
        sound = isinstance(names, list) and len(names) >= 2 and all(isinstance(name, str) for name in names)
        sound = sound and len(set(names)) == len(names) and 1 <= size <= 4096
        sound = sound and all(map(is_plain, [*names, *values.values()]))
        # Not `<= 0` and `> 1`: a NaN is neither.
        sound = sound and 0 < temperature < math.inf and (threshold is None or 0 <= threshold <= 1)
        if not sound or values.get("resize") not in pictures.RESIZE_MODES:
            raise ArtifactError(f"{origin}: its description is damaged")
        texts = ("resize", "precision", "model_name", "data_name", "data_fingerprint", "kcv_version")
        return cls(
            class_names=tuple(names),
            image_size=size,
            **{key: values.get(key, "") for key in texts},
            temperature=temperature,
            threshold=threshold,
        )


class OnnxModel:
    """A classifier that was exported by kcv.

    Args:
        path: of the file.
        device: `auto` (the CPU, unless the file runs on CUDA here), `cpu` or `cuda`.
        threads: that compute one batch; None for one a core. With 1, several batches may be computed at the same time,
            each in the thread that calls `predict`.

    Raises:
        ArtifactError: the file is missing, damaged, or not of kcv.
        DeviceError: onnxruntime cannot use the device.
    """

    def __init__(self, path: str | Path, *, device: str = "auto", threads: int | None = None) -> None:
        self.path = Path(path)
        self._threads = threads
        self.session = open_session(self.path, device=device, threads=threads)
        try:
            metadata = self.session.get_modelmeta().custom_metadata_map
            declared = [self.session.get_inputs(), self.session.get_outputs()]
            inputs, outputs = ([(value.name, value.type, _fixed(value.shape)) for value in side] for side in declared)
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{path}: its description is damaged: {error}") from None
        self.info = OnnxInfo.from_metadata(metadata, str(path))
        expected = [None, self.info.image_size, self.info.image_size, 3]
        rows = ("tensor(float)", [None, len(self.class_names)])
        fits = all((name, *rows) in outputs for name in (LOGITS, PROBABILITIES))
        if not fits or inputs != [(INPUT, "tensor(uint8)", expected)]:
            raise ArtifactError(f"{path}: its inputs and outputs are not what its description says")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.info.class_names

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.info.image_size

    @property
    def resize(self) -> str:
        """How pictures of other sizes are brought to `image_size`."""
        return self.info.resize

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which it does not commit itself; None where it always does."""
        return self.info.threshold

    @property
    def preferred_batch(self) -> int:
        """How many pictures a core computes well at once: more only cost memory."""
        return min(_MOST, max(_LEAST, _BATCH_PIXELS // self.image_size**2))

    @property
    def concurrent(self) -> bool:
        """Whether several threads should call `predict` at the same time: where each call computes in one."""
        return self._threads == 1

    def predict(
        self,
        images: NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]],
        *,
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Classifies pictures.

        Args:
            images: uint8 [n, height, width, 3] RGB, or a sequence of paths or of such single pictures. Those that are
                not [image_size, image_size] are resized as the model was trained.
            batch_size: pictures a batch; by default as many as a core computes well at once.

        Returns:
            Probabilities, float32 [n, classes], in the order of the pictures.

        Raises:
            ImageError: naming the first picture that cannot be read.
        """
        size = batch_size or self.preferred_batch
        batches = (images[start : start + size] for start in range(0, len(images), size))
        rows = [self.run(pictures.stack(batch, self.image_size, self.resize))[1] for batch in batches]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.class_names)), np.float32)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], of pictures at the model's size, uint8 [n, size, size, 3]."""
        size = self.preferred_batch
        return np.concatenate([self.run(pixels[start : start + size])[0] for start in range(0, len(pixels), size)])

    def run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the logits and the probabilities, float32 [n, classes], of pictures at the model's size."""
        try:
            logits, probabilities = self.session.run([LOGITS, PROBABILITIES], {INPUT: batch})
        # As when it is opened, there is a class of errors for each kind of damage.
        except Exception as error:
            raise ArtifactError(f"{self.path}: cannot be run: {first_line(error)}") from error
        return logits, probabilities


def _fixed(shape: Sequence[Any]) -> list[int | None]:
    """Returns the sizes of a tensor, None for those that are open."""
    return [size if isinstance(size, int) else None for size in shape]
