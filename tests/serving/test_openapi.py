"""`/openapi.json`: a valid description, and one of what the server does."""

from __future__ import annotations

from typing import Any

import pytest
from served_images import photo
from serving import Running
from starlette.routing import Route

from kcv.serving.openapi import document


def test_it_describes_each_route_and_no_other(running: Running) -> None:
    found = running.get("/openapi.json").json
    starlette: Any = running.server.config.loaded_app
    routes = {
        (route.path, method.lower())
        for route in starlette._app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert {(path, method) for path, methods in found["paths"].items() for method in methods} == routes


@pytest.mark.parametrize("with_feedback", [False, True])
def test_every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own(with_feedback: bool) -> None:
    found = document(with_token=True, with_feedback=with_feedback)
    assert ("/feedback" in found["paths"]) == with_feedback
    schemas = found["components"]["schemas"]

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [one for inner in value.values() for one in references(inner)]
        return [one for inner in value for one in references(inner)] if isinstance(value, list) else []

    assert {ref.rpartition("/")[2] for ref in references(found)} == set(schemas)
    operations = [operation for methods in found["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            placed = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert placed == {part[1:-1] for part in path.split("/") if part.startswith("{")}


@pytest.mark.parametrize("wanted", [False, True])
def test_it_is_valid_openapi(wanted: bool) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="needs openapi-spec-validator")
    validator.validate(document(with_token=wanted, with_feedback=wanted))


def test_answers_are_what_it_says(running: Running) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, of openapi-spec-validator")
    found = document(with_token=False)

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": found["components"]}
        jsonschema.validate(value, schema)

    answered = running.post("/predict", photo()).json
    check("Predictions", answered)
    check("Error", running.post("/predict", b"").json)
    check("Models", running.get("/models").json)
    sent = {"inputs": [{"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}]}
    check("InferenceRequest", sent)
    check("InferenceResponse", running.post("/v2/models/net/infer", sent).json)
    with pytest.raises(jsonschema.ValidationError):
        check("Predictions", {**answered, "model": 1})
