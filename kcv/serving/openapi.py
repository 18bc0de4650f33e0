"""The description of all routes: OpenAPI 3.1, from which clients are generated."""

from __future__ import annotations

from typing import Any

from kcv import __version__
from kcv.serving.inference_request import INPUT, OUTPUTS

_JSON = "application/json"
_ERRORS = {
    "400": "The request is not understood",
    "401": "The token is missing or wrong",
    "404": "There is no such model",
    "408": "The body did not arrive in time",
    "413": "The body is too large, or holds too many images",
    "415": "The format or the media type is none that is read",
    "422": "The image cannot be read",
    "500": "The server has made a mistake",
    "503": "The server is busy or stopping; try again after the seconds of Retry-After",
}

_MODEL_KEYS = ("name", "version", "image_size", "resize", "class_names", "threshold", "coverage", "heatmaps", "answers",
               "reference")  # fmt: skip


def document(*, with_token: bool, with_feedback: bool = False) -> dict[str, Any]:
    """Returns the description.

    Args:
        with_token: whether clients must send a token.
        with_feedback: whether images can be filed under their class.
    """
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "kcv",
            "version": __version__,
            "description": "Classifies images.",
            "license": {"name": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {**_own(), **_protocol(), **_mlflow(), **_operations(), **_page(with_feedback)},
        "components": {"schemas": _schemas()},
    }
    if with_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        for path in ("/v2/health/live", "/v2/health/ready", "/ping", "/metrics", "/"):
            found["paths"][path]["get"]["security"] = []
    return found


def _own() -> dict[str, Any]:
    image = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    files = {"type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"}}
    form = {"schema": {"type": "object", "properties": {"file": files}, "required": ["file"]}}
    body: dict[str, Any] = {"required": True, "content": {"image/*": image, "application/octet-stream": image,
                                          "multipart/form-data": form}}  # fmt: skip
    top_k = _query("top_k", {"type": "integer", "minimum": 1, "default": 5}, "The number of classes to rank")
    model = _query("model", {"type": "string"}, "The model; the first one without it")
    return {
        "/predict": {"post": _operation("predict", "Classify an image, or several in a form", _ref("Predictions"),
                                        parameters=[top_k, model], body=body)},
        "/explain": {"post": _explain({"required": True, "content": dict(list(body["content"].items())[:2])}, model)},
    }  # fmt: skip


def _explain(body: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    class_name = _query("class_name", {"type": "string"}, "The class to explain; the most probable one without it")
    found = _operation(
        "explain", "Show where the model looks", _ref("Explanation"), parameters=[class_name, model], body=body,
        codes={"501": "The model has no heat maps"},
    )  # fmt: skip
    found["responses"]["200"]["content"]["image/png"] = {"schema": {"type": "string", "contentMediaType": "image/png"}}
    return found


def _protocol() -> dict[str, Any]:
    free = {"type": "object"}
    found: dict[str, Any] = {
        "/v2": {"get": _operation("server_metadata", "Describe the server", free)},
        "/v2/health/live": {"get": _operation("server_live", "Is the server running?", free)},
        "/v2/health/ready": {"get": _operation("server_ready", "Should requests come here?", free)},
    }
    for suffix, more in (("", ()), ("/versions/{version}", ("version",))):
        parameters = [_path("name"), *map(_path, more)]
        end = "_version" if more else ""
        base = f"/v2/models/{{name}}{suffix}"
        found[base] = {"get": _operation(f"model_metadata{end}", "Describe a model", free, parameters=parameters)}
        found[f"{base}/ready"] = {"get": _operation(f"model_ready{end}", "Does a model answer?", free,
                                                    parameters=parameters)}  # fmt: skip
        found[f"{base}/infer"] = {"post": _operation(
            f"infer{end}", "Classify the images of a tensor", _ref("InferenceResponse"), parameters=parameters,
            body={"required": True, "content": {_JSON: {"schema": _ref("InferenceRequest")}}},
        )}  # fmt: skip
    return found


def _mlflow() -> dict[str, Any]:
    body = {"required": True, "content": {_JSON: {"schema": _ref("Invocation")}}}
    return {
        "/ping": {"get": _operation("ping", "Is the server ready? (MLflow)", None)},
        "/invocations": {"post": _operation("invocations", "Classify images in base64 (MLflow)", {"type": "object"},
                                            body=body)},
    }  # fmt: skip


def _operations() -> dict[str, Any]:
    return {
        "/metrics": {"get": _operation("metrics", "Metrics for Prometheus", None)},
        "/openapi.json": {"get": _operation("openapi", "This description", {"type": "object"})},
    }


def _page(with_feedback: bool) -> dict[str, Any]:
    html = _operation("page", "The page for people", None)
    html["responses"]["200"]["content"] = {"text/html": {"schema": {"type": "string"}}}
    models = _operation("models", "The models, and how they have answered", _ref("Models"))
    found: dict[str, Any] = {"/": {"get": html}, "/models": {"get": models}}
    if with_feedback:
        image = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
        parameters = [
            {**_query("class_name", {"type": "string"}, "The class that the image shows"), "required": True},
            _query("model", {"type": "string"}, "The model; the first one without it"),
        ]
        text = {"type": "string"}
        filed = _object(("model", "class_name"), model=text, class_name=text)
        body = {"required": True, "content": {"image/*": image, "application/octet-stream": image}}
        codes = {"507": "There is no room for more images"}
        operation = _operation("feedback", "File an image under the class that it shows", filed,
                               parameters=parameters, body=body, codes=codes)  # fmt: skip
        found["/feedback"] = {"post": operation}
    return found


def _operation(
    name: str,
    summary: str,
    answer: dict[str, Any] | None,
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    codes: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Returns an operation. `answer` is the schema of its JSON; None if it answers with text."""
    content = {"text/plain": {"schema": {"type": "string"}}} if answer is None else {_JSON: {"schema": answer}}
    errors = {**_ERRORS, **(codes or {})} if body else {code: _ERRORS[code] for code in ("401", "404", "503")}
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": content},
            **{code: {"description": text, "content": {_JSON: {"schema": _ref("Error")}}}
               for code, text in errors.items()},
        },
    }  # fmt: skip
    if parameters:
        found["parameters"] = parameters
    if body:
        found["requestBody"] = body
    return found


def _query(name: str, schema: dict[str, Any], meaning: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": meaning, "schema": schema}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    return {**found, "required": list(required)} if required else found


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _schemas() -> dict[str, Any]:
    text, fraction = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
    shape = _list({"type": "integer"})
    ranked = _object(("label", "confidence"), label=text, confidence=fraction)
    return {
        "Error": _object(("error",), error={**text, "description": "One line that says why"}),
        "Prediction": _object(
            (),
            name={**text, "description": "Name of the file in the form"},
            label={**text, "description": "The class, or `unsure` below the model's threshold"},
            likeliest={**text, "description": "The likeliest class"},
            confidence={**fraction, "description": "The probability of the likeliest class"},
            top={**_list(ranked), "description": "The likeliest classes, most likely first"},
            prediction_set={
                **_list(text),
                "description": "The classes that together hold the right one with the model's coverage, if it has one",
            },
            error={**text, "description": "Why this image of several could not be read"},
            code={"type": "integer", "description": "The status code of this image"},
        ),
        "Predictions": _object(
            ("model", "version", "predictions"), model=text, version=text, predictions=_list(_ref("Prediction"))
        ),
        "Explanation": _object(
            ("model", "version", "class_name", "probability", "prediction", "heatmap"),
            model=text,
            version=text,
            class_name={**text, "description": "The explained class"},
            probability=fraction,
            prediction=_ref("Prediction"),
            heatmap={**_list(_list(fraction)), "description": "The map at the model's size, row by row"},
        ),
        "Models": _object(
            ("models", "feedback", "max_bytes"),
            models=_list(_ref("Model")),
            feedback={"type": "boolean", "description": "Whether images can be filed under their class"},
            max_bytes={"type": "integer", "description": "The most bytes of a request"},
        ),
        "Model": _object(
            _MODEL_KEYS,
            name=text,
            version=text,
            image_size={"type": "integer", "description": "Side of the square input, in pixels"},
            resize={**text, "description": "How images of other sizes are resized to it"},
            class_names=_list(text),
            threshold={"anyOf": [fraction, {"type": "null"}], "description": "Below it, the label is `unsure`"},
            coverage={"anyOf": [fraction, {"type": "null"}], "description": "How often a set holds the right class"},
            heatmaps={"type": "boolean", "description": "Whether /explain answers"},
            answers={"anyOf": [_ref("Answers"), {"type": "null"}], "description": "Since the server started"},
            reference={"anyOf": [_ref("Answers"), {"type": "null"}], "description": "On the test split"},
        ),
        "Answers": _object(
            ("confidence", "predicted"),
            split=text,
            confidence={**shape, "description": "Images per bin of confidence, from 0 to 1"},
            predicted={**shape, "description": "Images per likeliest class; empty if that is not known"},
        ),
        "InferenceRequest": _object(
            ("inputs",),
            id=text,
            parameters={"type": "object"},
            inputs=_list(
                _object(
                    ("name", "shape", "datatype"),
                    name={**text, "enum": [INPUT]},
                    shape=shape,
                    datatype={**text, "enum": ["BYTES", "UINT8"]},
                    parameters={"type": "object"},
                    data={**_list({}), "description": "Images in base64 (BYTES), or pixels from 0 to 255 (UINT8)"},
                )
            ),
            outputs=_list(_object(("name",), name={**text, "enum": list(OUTPUTS)}, parameters={"type": "object"})),
        ),
        "InferenceResponse": _object(
            ("model_name", "outputs"),
            model_name=text,
            model_version=text,
            id=text,
            outputs=_list(
                _object(("name", "shape", "datatype"), name=text, shape=shape, datatype=text, data=_list({}))
            ),
        ),
        "Invocation": _object(
            (),
            inputs={"description": "Images in base64, or one column of them by its name"},
            instances={"description": "The same"},
            dataframe_records=_list({"type": "object"}),
            dataframe_split={"type": "object"},
            params={"type": "object"},
        ),
    }
