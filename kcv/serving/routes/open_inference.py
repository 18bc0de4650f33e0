"""The Open Inference Protocol v2, as Triton, KServe and their clients speak it.

Source: Open Inference Protocol v2, with its extensions for binary tensors and classification.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from kcv import __version__
from kcv.inference.prediction import answer, ranked
from kcv.serving.answers import scores_of
from kcv.serving.encoding import parsed
from kcv.serving.exchange import header
from kcv.serving.inference_request import INPUT, Limits, Output, read_request
from kcv.serving.model import Version
from kcv.serving.problems import Problem
from kcv.serving.tensors import join_bytes

if TYPE_CHECKING:
    from starlette.requests import Request

    from kcv.serving.service import Service

_LENGTH = "Inference-Header-Content-Length"


class OpenInferenceRoutes:
    """The routes below `/v2`.

    Args:
        service: the models.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self, request: Request) -> Response:
        """Describes the server."""
        extensions = ["classification", "binary_tensor_data"]
        return JSONResponse({"name": "kcv", "version": __version__, "extensions": extensions})

    async def live(self, request: Request) -> Response:
        """Says that the server runs."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Says whether new requests should come here."""
        is_ready = self._service.is_ready
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def model(self, request: Request) -> Response:
        """Describes a model."""
        version = self._version(request)
        classes = len(version.class_names)
        return JSONResponse(
            {
                "name": version.name,
                "versions": [version.digest],
                "platform": "kcv",
                "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
                "outputs": [
                    {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
                    {"name": "label", "datatype": "BYTES", "shape": [-1]},
                    {"name": "confidence", "datatype": "FP32", "shape": [-1]},
                ],
                "class_names": list(version.class_names),
                "image_size": version.classifier.image_size,
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Says whether a model answers."""
        version = self._version(request)
        is_ready = self._service.is_ready
        return JSONResponse({"name": version.name, "ready": is_ready}, 200 if is_ready else 503)

    async def infer(self, request: Request) -> Response:
        """Classifies the images of a tensor."""
        version = self._version(request)
        length = header(request.scope, _LENGTH.lower().encode())
        if length is not None and not length.isdigit():
            raise Problem(400, f"{_LENGTH}: is no number.")
        body = await self._service.body(request.scope, request.receive)
        limits = Limits(self._service.queue.most, self._service.settings.max_pixels)
        json_bytes = int(length[:18]) if length is not None else None
        asked = await parsed(body, functools.partial(read_request, json_bytes=json_bytes, limits=limits))
        scores = scores_of(await self._service.classify(version, asked.images, request.receive))
        outputs, tail = [], []
        for wanted in asked.outputs:
            described, content = _output(version, scores, wanted)
            outputs.append(described)
            tail.append(content)
        found: dict[str, Any] = {"model_name": version.name, "model_version": version.digest, "outputs": outputs}
        if asked.id is not None:
            found["id"] = asked.id
        binary = b"".join(tail)
        if not binary:
            return JSONResponse(found)
        text = json.dumps(found, ensure_ascii=False).encode()
        return Response(text + binary, headers={_LENGTH: str(len(text))}, media_type="application/octet-stream")

    def _version(self, request: Request) -> Version:
        """Returns the version that a path names."""
        version = self._service.version(request.path_params["name"])
        asked = request.path_params.get("version")
        if asked not in (None, version.digest):
            raise Problem(404, f"{version.name} has the version {version.digest} alone.")
        return version


def _output(version: Version, scores: NDArray[np.float32], wanted: Output) -> tuple[dict[str, Any], bytes]:
    """Returns an output's entry in the JSON, and its bytes behind it.

    Args:
        version: the model.
        scores: probabilities, float32 [n, classes].
        wanted: the output.
    """
    values = _values(version, scores, wanted)
    described: dict[str, Any] = {"name": wanted.name, "shape": list(values.shape)}
    is_text = values.dtype.kind == "O"
    described["datatype"] = "BYTES" if is_text else "FP32"
    if not wanted.binary:
        return {**described, "data": values.ravel().tolist()}, b""
    texts = [text.encode() for text in values.ravel()] if is_text else []
    content = join_bytes(texts) if is_text else values.astype("<f4").tobytes()
    return {**described, "parameters": {"binary_data_size": len(content)}}, content


def _values(version: Version, scores: NDArray[np.float32], wanted: Output) -> NDArray[Any]:
    names, threshold = version.class_names, version.classifier.threshold
    if wanted.name == "label":
        labels = [answer(names[row.argmax()], float(row.max()), threshold) for row in scores]
        return np.array(labels, dtype=object)
    if wanted.name == "confidence":
        return np.asarray(scores.max(axis=1))
    if wanted.classes is None:
        return scores
    rows = [[f"{row[at]:f}:{at}:{names[at]}" for at in ranked(row, wanted.classes)] for row in scores]
    return np.array(rows, dtype=object)
