"""`/`: the page for people; `/models`: what it must know; `POST /feedback`: the class that an image shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from kcv.serving.exchange import query_of
from kcv.serving.model import Version
from kcv.serving.page import page
from kcv.serving.problems import Problem
from kcv.serving.routes.predict import check_kind

if TYPE_CHECKING:
    from starlette.requests import Request

    from kcv.serving.service import Service

_PERMISSIONS = "camera=(self), microphone=(), geolocation=(), display-capture=()"


class PageRoutes:
    """The page, and what it asks for.

    Args:
        service: the models.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def page(self, request: Request) -> Response:
        """Returns the page. It holds nothing about the models, and needs no token."""
        found = await asyncio.to_thread(page)  # the first time it imports Jinja2 and puts the page together
        headers = {"Content-Security-Policy": found.policy, "Permissions-Policy": _PERMISSIONS}
        return HTMLResponse(found.html, headers=headers)

    async def models(self, request: Request) -> Response:
        """Describes all models, and how they have answered since the start and on the test split."""
        service = self._service
        return JSONResponse(
            {
                "models": [self._described(served.version) for served in service.models.values()],
                "feedback": service.feedback is not None,
                "max_bytes": service.settings.max_bytes,
            }
        )

    async def feedback(self, request: Request) -> Response:
        """Files the image in the body under the class that it shows."""
        assert self._service.feedback is not None  # otherwise there is no such route
        query = query_of(request, "class_name", "model")
        class_name = query.get("class_name")
        version = self._service.version(query.get("model"))
        if class_name is None:
            raise Problem(400, "class_name is missing: the class that the image shows.")
        check_kind(request.scope)
        body = await self._service.body(request.scope, request.receive)
        await self._service.feedback.file(version.name, body, class_name)
        return JSONResponse({"model": version.name, "class_name": class_name})

    def _described(self, version: Version) -> dict[str, Any]:
        answers, reference = self._service.metrics.answers(version), version.reference
        return {
            "name": version.name,
            "version": version.digest,
            "image_size": version.classifier.image_size,
            "resize": version.classifier.resize,
            "class_names": list(version.class_names),
            "threshold": version.classifier.threshold,
            "coverage": None if version.classifier.sets is None else version.classifier.sets.wanted_coverage,
            "heatmaps": bool(getattr(version.classifier, "has_heatmaps", False)),
            "answers": None if answers is None else {"confidence": answers.confidence, "predicted": answers.predicted},
            "reference": None if reference is None else reference.model_dump(mode="json"),
        }
