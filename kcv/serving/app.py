"""The routes of a server, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kcv.serving.guard import Guard
from kcv.serving.problems import Problem
from kcv.serving.routes.mlflow import MlflowRoutes
from kcv.serving.routes.open_inference import OpenInferenceRoutes
from kcv.serving.routes.operations import OperationRoutes
from kcv.serving.routes.page import PageRoutes
from kcv.serving.routes.predict import PredictRoutes

if TYPE_CHECKING:
    from starlette.requests import Request

    from kcv.serving.service import Service


def make_app(service: Service) -> Guard:
    """Returns the application that serves models."""
    own, mlflow = PredictRoutes(service), MlflowRoutes(service)
    protocol, operations, people = OpenInferenceRoutes(service), OperationRoutes(service), PageRoutes(service)
    model = "/v2/models/{name}"
    routes = [Route("/predict", own.predict, methods=["POST"])]  # the first is found first
    for path in (model, model + "/versions/{version}"):
        routes += [
            Route(f"{path}/infer", protocol.infer, methods=["POST"]),
            Route(f"{path}/ready", protocol.model_ready),
            Route(path, protocol.model),
        ]
    routes += [
        Route("/explain", own.explain, methods=["POST"]),
        Route("/v2/health/live", protocol.live),
        Route("/v2/health/ready", protocol.ready),
        Route("/v2", protocol.server),
        Route("/ping", mlflow.ping),
        Route("/invocations", mlflow.invocations, methods=["POST"]),
        Route("/metrics", operations.metrics),
        Route("/openapi.json", operations.openapi),
        Route("/models", people.models),
        Route("/", people.page),
    ]
    if service.feedback is not None:
        routes.append(Route("/feedback", people.feedback, methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={Problem: _refused, HTTPException: _unknown})
    app.router.redirect_slashes = False
    return Guard(app, service)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return JSONResponse({"error": error.reason}, error.code, error.headers)


async def _unknown(request: Request, error: Exception) -> Response:
    """Answers a request for a path or a method that no route has."""
    assert isinstance(error, HTTPException)
    reason = "no such method here." if error.status_code == 405 else "no such page; /openapi.json lists all."
    return JSONResponse({"error": reason}, error.status_code, error.headers)
