"""What the machinery around a server asks: metrics, and what the routes are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import Response

from kcv.serving.openapi import document
from kcv.serving.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from kcv.serving.service import Service


class OperationRoutes:
    """The routes for operators.

    Args:
        service: the models.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._document = json.dumps(
            document(with_token=service.settings.token is not None, with_feedback=service.feedback is not None)
        ).encode()

    async def metrics(self, request: Request) -> Response:
        """Returns all metrics in Prometheus' format."""
        found = self._service.metrics.text()
        if found is None:
            raise Problem(501, "metrics need prometheus-client: pip install 'kcv[serve]'.")
        text, kind = found
        return Response(text, media_type=None, headers={"content-type": kind})

    async def openapi(self, request: Request) -> Response:
        """Returns the description of all routes (OpenAPI 3.1)."""
        return Response(self._document, media_type="application/json")
