"""Opens a model that kcv logged to MLflow, for `mlflow.pyfunc.load_model` and `mlflow models serve`.

The name of this module is in the `MLmodel` file of each such model. Those files are opened by kcv's own checks.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.common.rows import PREDICTION_SET
from kcv.errors import ImageError

_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")

if TYPE_CHECKING:
    import numpy as np
    import pandas
    from numpy.typing import NDArray

    from kcv.inference.classifier import Classifier


class ImageClassifier:
    """A classifier in the terms of MLflow: encoded images in, rows out.

    Example:
        >>> model = mlflow.pyfunc.load_model("models:/photos@champion")
        >>> model.predict(open("cat.jpg", "rb").read()).label[0]
        'cat'
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        # MLflow's server calls from several threads.
        self._turn: AbstractContextManager[Any] = nullcontext() if classifier.concurrent else threading.Lock()

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """Classifies images, as `kcv predict` does.

        Args:
            model_input: encoded images (JPEG, PNG ...) as bytes, or as text in base64: one, several, or the first
                column of a DataFrame.
            params: none are known.

        Returns:
            A row per image: `label`, `unsure` below the model's threshold; `likeliest`, the likeliest class;
            `confidence`, its probability (0-1); `probabilities`, a probability by class name; and if the model has
            prediction sets, `prediction_set`, the names of its classes, most likely first.

        Raises:
            ImageError: an image cannot be read; the message says which one.
        """
        import numpy as np
        import pandas

        model = self._classifier
        pixels = [self._decode(image, f"image {at}") for at, image in enumerate(_images(model_input), start=1)]
        rows = []
        for start in range(0, len(pixels), model.preferred_batch):
            with self._turn:
                scores = model.predict_pixels(np.stack(pixels[start : start + model.preferred_batch]))
            rows += [self._row(each) for each in scores]
        more = [PREDICTION_SET] if model.sets is not None else []
        return pandas.DataFrame(rows, columns=["label", "likeliest", "confidence", "probabilities", *more])

    def _decode(self, image: Any, name: str) -> NDArray[np.uint8]:
        from kcv import images

        # Of `inputs` and `instances`, MLflow's server hands over the base64 itself, as bytes. No image looks like that.
        if isinstance(image, str) or (isinstance(image, bytes) and _BASE64.fullmatch(image)):
            try:
                image = base64.b64decode(image, validate=True)
            except (binascii.Error, ValueError):
                raise ImageError(f"{name}: is text, but not in base64") from None
        if not isinstance(image, bytes | bytearray | memoryview):
            raise ImageError(f"{name}: received {type(image).__name__}, allowed: the bytes of an encoded image")
        return images.load(bytes(image), self._classifier.image_size, self._classifier.resize, name=name)

    def _row(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        from kcv.inference.prediction import answer

        model = self._classifier
        likeliest, confidence = model.class_names[int(scores.argmax())], float(scores.max())
        row = {
            "label": answer(likeliest, confidence, model.threshold),
            "likeliest": likeliest,
            "confidence": confidence,
            "probabilities": dict(zip(model.class_names, map(float, scores), strict=True)),
        }
        return row if model.sets is None else {**row, PREDICTION_SET: model.sets.names(scores, model.class_names)}


def _images(model_input: Any) -> Iterable[Any]:
    """Returns the images of an input in one of the forms that MLflow hands over."""
    if isinstance(model_input, bytes | bytearray | memoryview | str):
        return [model_input]
    if hasattr(model_input, "iloc"):
        return list(model_input.iloc[:, 0] if model_input.ndim > 1 else model_input)
    return list(model_input)


def _load_pyfunc(path: str) -> ImageClassifier:
    """Opens the model in a folder; the hook that MLflow calls.

    Raises:
        ArtifactError: there is no model, or it cannot be opened.
    """
    from kcv.inference.classifier import open_classifier

    keras, onnx = Path(path) / "model.keras", Path(path) / "model.onnx"
    return ImageClassifier(open_classifier(onnx if onnx.is_file() and not keras.is_file() else keras))
