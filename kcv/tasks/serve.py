"""Serving models over HTTP: one command, one process, an ONNX model without torch (decision 022).

names -> files -> sessions, warm -> socket -> requests, until a signal
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

from kcv.common.files import expand_user
from kcv.common.parameters import AtLeast, Between, Device, PythonOnly, checked
from kcv.errors import UsageError

_log = logging.getLogger(__name__)

_MB = 10**6
_HIGHEST_PORT = 65535


@checked
def serve(
    models: str | Path | Iterable[str | Path],
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, AtLeast(0)] = 8000,
    token: str | None = None,
    token_file: str | Path | None = None,
    open: bool = False,
    certfile: str | Path | None = None,
    keyfile: str | Path | None = None,
    max_mb: Annotated[int, AtLeast(1)] = 10,
    max_pixels: Annotated[int, AtLeast(1)] = 50_000_000,
    queue_images: Annotated[int, AtLeast(1)] = 512,
    queue_mb: Annotated[int, AtLeast(1)] = 256,
    timeout: Annotated[float, Between(0.1, 3600)] = 10,
    body_seconds: Annotated[float, Between(0.1, 3600)] = 30,
    header_seconds: Annotated[float, Between(0.1, 3600)] = 10,
    idle_seconds: Annotated[int, AtLeast(1)] = 30,
    connections: Annotated[int, AtLeast(1)] = 1000,
    drain_seconds: Annotated[float, Between(0, 3600)] = 5,
    feedback: str | Path | None = None,
    feedback_mb: Annotated[int, AtLeast(1)] = 1000,
    log_requests: bool = False,
    device: Device = "auto",
    started: Annotated[Callable[[str], object] | None, PythonOnly()] = None,
) -> dict[str, int]:
    """Serve models over HTTP.

    The page at / classifies images that are dropped, pasted, chosen or taken by a camera; programs use POST /predict.
    Blocks until the process gets SIGTERM or Ctrl+C. SIGHUP, or a changed file, loads a model again; for a model in
    MLflow it asks again which version an alias means.

    Args:
        models: model files (model.onnx, model.keras) or run folders; NAME=FILE names one. Also models in MLflow:
            models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH; or in the Hugging Face Hub:
            hf://OWNER/NAME[@COMMIT].
        host: address to listen on; others than this machine's own need a token, or --open.
        port: port to listen on; 0 for any that is free.
        token: what clients must send as a bearer token; better in KCV_SERVE_TOKEN or a file, which nobody else sees.
        token_file: file that holds the token.
        open: let anybody who reaches the address use the models.
        certfile: certificate for TLS (PEM).
        keyfile: key of the certificate; default: in the same file.
        max_mb: most megabytes of a request.
        max_pixels: most pixels of an image.
        queue_images: most images that wait; further requests get 503.
        queue_mb: most megabytes of requests in memory; further requests get 503.
        timeout: seconds until a request that waits is given up.
        body_seconds: seconds that the body of a request may take to arrive.
        header_seconds: seconds that its headers may take.
        idle_seconds: seconds that a connection without a request stays open.
        connections: most connections at the same time.
        drain_seconds: seconds between SIGTERM, when the server reports that it is not ready, and its last connection.
        feedback: folder in which people file images under the right class, from the page or POST /feedback;
            default: nobody can.
        feedback_mb: most megabytes of images in it.
        log_requests: log the code, size and time of each request.
        device: where to compute.
        started: called with the URL when the server is ready.

    Returns:
        `requests`, the number of requests that were answered.

    Raises:
        UsageError: others could connect and there is no token; a name stands twice; a certificate cannot be used;
            class names cannot be folders for feedback; or the packages of the extra `kcv[serve]` are missing.
        ArtifactError: a model cannot be opened.
        TrackingError: the MLflow store cannot be reached.
        HubError: the Hugging Face Hub cannot be reached, or refuses.
        OutputError: the port is in use, or the folder for feedback cannot be written.

    Example:
        $ kcv serve runs/mine/model.onnx
        $ kcv serve models:/photos@champion
        $ kcv serve cats=cats.onnx dogs=dogs.onnx --host=0.0.0.0 --token_file=token
    """
    try:
        from kcv.serving import server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "uvicorn", "anyio", "h11"):
            raise
        raise UsageError(f"serve needs {error.name}: pip install 'kcv[serve]'.") from None
    from kcv.serving.model import Served
    from kcv.serving.place import places
    from kcv.serving.settings import Settings, find_token

    if port > _HIGHEST_PORT:
        raise UsageError(f"--port: received {port}, allowed: a whole number from 0 to {_HIGHEST_PORT}.")
    if keyfile is not None and certfile is None:
        raise UsageError("--keyfile needs --certfile.")
    settings = Settings(
        host=host,
        port=port,
        token=find_token(token, token_file, host, open_to_all=open),
        max_bytes=max_mb * _MB,
        max_pixels=max_pixels,
        queue_images=queue_images,
        queue_bytes=queue_mb * _MB,
        timeout=timeout,
        header_seconds=header_seconds,
        body_seconds=body_seconds,
        idle_seconds=idle_seconds,
        connections=connections,
        drain_seconds=drain_seconds,
        feedback=None if feedback is None else expand_user(feedback),
        feedback_bytes=feedback_mb * _MB,
        log_requests=log_requests,
    )
    named = places([models] if isinstance(models, str | Path) else models)
    with server.listen(host, port) as opened:
        made = server.make_server(
            [Served(place, device) for place in named],
            settings,
            certfile=None if certfile is None else expand_user(certfile),
            keyfile=None if keyfile is None else expand_user(keyfile),
            started=started or (lambda url: _log.info("serving at %s", url)),
        )
        requests = made.answer(opened)
    return {"requests": requests}
