"""The API's own description, made to say of errors what is true: they are problems (RFC 9457), never FastAPI's own."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from backend.errors import MEDIA_TYPE
from core.spec import ExperimentSpec, SweepSpec
from core.wire.public import ProblemDetails
from core.wire.submissions import MAX_EXPERIMENTS

_SCHEMAS = "#/components/schemas/"
_SENT = "-Input"
"""Behind the name of a schema that is sent to the backend, as FastAPI has it."""
SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{ExperimentSpec.__name__}{_SENT}"}}},
    }
}
SWEEP_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{SweepSpec.__name__}{_SENT}"}}},
    }
}
BULK_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["experiments"],
                    "additionalProperties": False,
                    "properties": {
                        "experiments": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MAX_EXPERIMENTS,
                            "items": {"$ref": f"{_SCHEMAS}{ExperimentSpec.__name__}{_SENT}"},
                        }
                    },
                }
            }
        },
    }
}
_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Replace the application's description by one with its problems in it; made once, at the first request."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(plain())
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way


def operation_id(route: APIRoute) -> str:
    """As ``runs-cancel``: what generators of clients make function names from."""
    return f"{route.tags[0]}-{route.name}".replace(" ", "-").replace("_", "-")


def _with_problems(description: dict[str, Any]) -> dict[str, Any]:
    schemas = description["components"]["schemas"]
    for name in _FRAMEWORKS_OWN:
        schemas.pop(name, None)
    _add(schemas, ProblemDetails, "")
    # As it is sent, where almost nothing is required; as it comes back, everything is there.
    _add(schemas, ExperimentSpec, _SENT)
    _add(schemas, SweepSpec, _SENT)
    for path, operations in description["paths"].items():
        for operation in operations.values():
            _describe(path, operation)
    return description


def _add(schemas: dict[str, Any], model: type[BaseModel], suffix: str) -> None:
    whole = model.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}{suffix}")
    parts = whole.pop("$defs", {})
    schemas.update({f"{name}{suffix}": schema for name, schema in parts.items()})
    schemas[f"{model.__name__}{suffix}"] = whole


def _describe(path: str, operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    wanted = {code for code in responses if code >= "400"}
    if operation.get("security"):
        wanted |= {"401", "403"}
    if "{" in path:
        wanted.add("404")
    if operation.get("parameters") or operation.get("requestBody"):
        wanted.add("422")
    reference = {"$ref": _SCHEMAS + ProblemDetails.__name__}
    for code in sorted(wanted):
        own = responses.get(code, {}).get("description", "")
        text = own if own and code != "422" else HTTPStatus(int(code)).phrase
        responses[code] = {"description": text, "content": {MEDIA_TYPE: {"schema": reference}}}
    if path.startswith("/api/"):
        # 413 above the size limit, 500, and 503 while the database is away.
        responses["default"] = {"description": "Any other problem", "content": {MEDIA_TYPE: {"schema": reference}}}
