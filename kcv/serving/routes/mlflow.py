"""`/ping` and `/invocations`, in the words of MLflow's scoring server: images as base64 in JSON."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from kcv.serving.answers import prediction, scores_of
from kcv.serving.encoding import from_base64, json_object, parsed, whole_number
from kcv.serving.problems import Problem
from kcv.serving.tensors import pixels_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from kcv.serving.service import Service

_FORMS = ("inputs", "instances", "dataframe_records", "dataframe_split")
_COLUMNS = ("image", "b64", "data")
"""Names that the column of the images may have, where a row has several."""


@dataclass(frozen=True)
class Invocation:
    """What a client asks for: encoded images or pixels, uint8 [height, width, channels], and the classes to rank."""

    images: list[bytes | NDArray[np.uint8]]
    top_k: int


class MlflowRoutes:
    """The routes that clients of MLflow use.

    Args:
        service: the models. The first one answers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ping(self, request: Request) -> Response:
        """Says whether the server is ready."""
        return Response(b"\n", 200 if self._service.is_ready else 503)

    async def invocations(self, request: Request) -> Response:
        """Classifies images in one of MLflow's JSON forms."""
        try:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Problem(415, "send application/json: images do not fit into CSV.")
            body = await self._service.body(request.scope, request.receive)
            read = functools.partial(
                read_invocation, most=self._service.queue.most, max_pixels=self._service.settings.max_pixels
            )
            asked = await parsed(body, read)
            version = self._service.version()
            scores = scores_of(await self._service.classify(version, asked.images, request.receive))
            rows = [prediction(version, row, asked.top_k) for row in scores]
        except Problem as problem:
            code = "BAD_REQUEST" if problem.code < 500 else "INTERNAL_ERROR"
            content = {"error_code": code, "message": problem.reason}
            return JSONResponse(content, problem.code, problem.headers)
        return JSONResponse({"predictions": rows})


def read_invocation(body: bytes, *, most: int, max_pixels: int) -> Invocation:
    """Returns what a body asks for.

    Args:
        body: JSON with one of `_FORMS`, and perhaps `params`.
        most: the most images.
        max_pixels: the most pixels of an image.

    Raises:
        Problem: the body is not understood.
    """
    found = json_object(body)
    params = found.pop("params", None) or {}
    forms = [name for name in _FORMS if name in found]
    if len(forms) != 1 or not isinstance(params, dict):
        raise Problem(400, f"the body must hold one of {', '.join(_FORMS)}.")
    unknown = set(params) - {"top_k"}
    if unknown:
        raise Problem(400, f"unknown parameter {sorted(unknown)[0]!r}; allowed: top_k.")
    rows = _rows(found[forms[0]], forms[0])
    if not 1 <= len(rows) <= most:
        raise Problem(400, f"{forms[0]}: holds {len(rows):,} images, allowed: 1 to {most:,}.")
    images = [_image(row, f"{forms[0]}[{number}]", max_pixels) for number, row in enumerate(rows)]
    return Invocation(images, whole_number(params.get("top_k", 5), "top_k"))


def _rows(value: Any, form: str) -> list[Any]:
    """Returns the rows of an input in one of MLflow's forms."""
    if form == "dataframe_split":
        if not isinstance(value, dict) or not isinstance(value.get("data"), list):
            raise Problem(400, f"{form}: has no data.")
        columns = value.get("columns", [])
        named = isinstance(columns, list) and len(columns) > 1
        value = [dict(zip(map(str, columns), row, strict=False)) if named and isinstance(row, list) else row
                 for row in value["data"]]  # fmt: skip
    elif isinstance(value, dict):  # tensors by name: a model of images has one
        value = next(iter(value.values()), None)
    if not isinstance(value, list):
        raise Problem(400, f"{form}: must be a list of images in base64.")
    return value


def _image(row: Any, where: str, max_pixels: int) -> bytes | NDArray[np.uint8]:
    """Returns an image: base64, alone or in a row of one column, or pixels, [height][width][3]."""
    if isinstance(row, Mapping):
        names = [name for name in _COLUMNS if name in row] or list(row)[:1]
        if not names:
            raise Problem(400, f"{where}: is empty.")
        row = row[names[0]]
    if isinstance(row, list) and len(row) == 1 and isinstance(row[0], str):
        row = row[0]
    if isinstance(row, list):
        return pixels_of(row, where, max_pixels)
    return from_base64(row, where)
