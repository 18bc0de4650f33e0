"""`POST /predict`: an image, or several in a form; `POST /explain`: where the model looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from starlette.responses import JSONResponse, Response

from kcv.errors import UsageError
from kcv.saliency.classes import class_position
from kcv.serving.answers import prediction, predictions
from kcv.serving.drawing import overlay
from kcv.serving.encoding import whole_number
from kcv.serving.exchange import header, query_of
from kcv.serving.problems import Problem
from kcv.serving.routes.forms import images_of_form
from kcv.serving.workers import NO_HEATMAPS

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope

    from kcv.serving.service import Service

_TOP_K = 5


class PredictRoutes:
    """The routes that are kcv's own.

    Args:
        service: the models.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Request) -> Response:
        """Classifies the image in the body, or the images of a form."""
        query = query_of(request, "top_k", "model")
        top_k = whole_number(query.get("top_k", _TOP_K), "top_k")
        version = self._service.version(query.get("model"))
        kind = check_kind(request.scope)
        body = await self._service.body(request.scope, request.receive)
        names = None
        images = [body]
        if kind.lower().startswith("multipart/"):
            names, images = await images_of_form(body, kind, self._service.queue.most)
        results = await self._service.classify(version, images, request.receive)
        rows = predictions(version, results, top_k, names)
        return JSONResponse({"model": version.name, "version": version.digest, "predictions": rows})

    async def explain(self, request: Request) -> Response:
        """Returns where the model looks: the image under its heat map as PNG, or the numbers as JSON."""
        query = query_of(request, "class_name", "model")
        class_name = query.get("class_name")
        version = self._service.version(query.get("model"))
        check_kind(request.scope)
        if not getattr(version.classifier, "has_heatmaps", False):
            raise Problem(501, NO_HEATMAPS)
        try:
            position = class_position(version.classifier, class_name)
        except UsageError as error:
            raise Problem(400, str(error).removeprefix("--")) from None
        body = await self._service.body(request.scope, request.receive)
        found = await self._service.explain(version, body, position, request.receive)
        name, probability = version.class_names[found.position], float(found.scores[found.position])
        if "application/json" not in request.headers.get("accept", ""):
            return Response(overlay(found.pixels, found.heat), media_type="image/png")
        return JSONResponse(
            {
                "model": version.name,
                "version": version.digest,
                "class_name": name,
                "probability": probability,
                "prediction": prediction(version, found.scores, _TOP_K),
                "heatmap": np.round(found.heat.astype(np.float64), 4).tolist(),
            }
        )


def check_kind(scope: Scope) -> str:
    """Returns the media type of a body.

    Raises:
        Problem: 415 for one that is surely no image; of all others, the bytes decide.
    """
    kind = (header(scope, b"content-type") or b"").decode("latin-1")
    plain = kind.partition(";")[0].strip().lower()
    if plain in ("application/json", "text/html", "text/plain") or plain.startswith("video/"):
        raise Problem(415, f"{plain}: send the bytes of an image, or a form (multipart/form-data) with several.")
    return kind
