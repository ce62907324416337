"""The API's OpenAPI description: FastAPI's, with every error described as a problem (RFC 9457) and with examples."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from backend.errors import MEDIA_TYPE
from core.protocol.public import ProblemDetails
from core.protocol.submissions import MAX_EXPERIMENTS
from core.specs import ExperimentSpec, SweepSpec

_SCHEMAS = "#/components/schemas/"
_REQUEST_SUFFIX = "-Input"
"""Suffix of the names of request schemas, as FastAPI writes it."""
_SPEC: dict[str, Any] = {
    "dataset": "digits",
    "teacher": {"model": "resnet20", "training": {"epochs": 30}},
    "student": {"model": "small_cnn"},
    "methods": ["dkd", {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 6.0}}],
    "seeds": "0..2",
    "training": {"epochs": 40, "optimizer": {"lr": 0.05}},
}


def _body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


SPEC_BODY = _body({"$ref": f"{_SCHEMAS}{ExperimentSpec.__name__}{_REQUEST_SUFFIX}"}, {"name": "digits", **_SPEC})
SWEEP_BODY = _body(
    {"$ref": f"{_SCHEMAS}{SweepSpec.__name__}{_REQUEST_SUFFIX}"},
    {
        "name": "beta",
        "experiment": _SPEC,
        "grid": {"methods.1.params.epsilon": [1, 6], "teacher.seed": "0..1"},
        "max_runs": 100,
    },
)
BULK_BODY = _body(
    {
        "type": "object",
        "required": ["experiments"],
        "additionalProperties": False,
        "properties": {
            "experiments": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_EXPERIMENTS,
                "items": {"$ref": f"{_SCHEMAS}{ExperimentSpec.__name__}{_REQUEST_SUFFIX}"},
            }
        },
    },
    {"experiments": [{"name": "one", **_SPEC}, {"name": "two", **_SPEC, "seeds": [3]}]},
)
_PROBLEMS: dict[str, dict[str, Any]] = {
    "401": {"detail": "this token is unknown, was revoked, or has expired"},
    "403": {"detail": "this token does not have the scope submit"},
    "404": {"detail": "there is no run '06h0c81ndwa9x6sd'"},
    "409": {"detail": "this run has not ended, it is running; cancel it first"},
    "429": {"detail": "too many requests with this token: at most 8000 per second on average; try again in 1 s"},
    "413": {"detail": "a request body has at most 1048576 bytes here"},
    "422": {
        "detail": "training.epochs: should be greater than or equal to 1",
        "errors": [{"path": "training.epochs", "message": "should be greater than or equal to 1"}],
    },
}
_PARAMETERS = {
    "key": "The id or the name.",
    "run_id": "The run's id.",
    "worker_id": "The worker's id, as it registered.",
    "artifact_id": "The artifact's id, from the list of the run's artifacts.",
    "item": "Position of the image in the test split, from 0.",
    "sha256": "SHA-256 of the weights, or the name that they were uploaded under.",
    "name": "The name of the sweep.",
    "layout": "The name of the layout.",
    "token_id": "The token's id, from the list of tokens.",
    "project": "The name of the project.",
    "person": "The name of the person.",
    "session": "The session's id, from the list of sessions; `current` is that of the request.",
}
"""Descriptions of path parameters."""
_BODIES: dict[str, dict[str, Any]] = {
    "CloneRequest": {"name": "digits, longer", "changes": {"training.epochs": 60, "seeds": "0..4"}},
    "ExperimentEdit": {"tags": ["paper"], "notes": "The table of section 4."},
    "PriorityChange": {"priority": 5},
    "ShareRequest": {"owner": "nightly-sweep", "weight": 2.0},
    "DrainChange": {"draining": True},
    "LayoutRequest": {
        "name": "paper, figure 3",
        "layout": {"figures": [{"metric": "test/top1"}, {"metric": "train/loss", "log": True}], "x": "epochs"},
    },
    "RotationRequest": {"overlap_hours": 24, "expires_in_days": 90},
    "ProjectRequest": {"name": "detection", "title": "Detectors"},
    "ProjectEdit": {"title": "Detectors of 2027"},
    "QuotaEdit": {"slots": 8, "gpu_hours": 500.0, "disk_bytes": None},
    "RoleRequest": {"role": "submitter"},
    "PersonRequest": {"name": "anna", "mail": "anna@lab.example"},
    "PersonEdit": {"disabled": True},
    "SignIn": {"person": "anna", "password": "a long sentence of anna", "client": "a notebook"},
    "InvitationSignIn": {"code": "Zm9yIGFubmEsIG9uY2Ugb25seS4u", "password": "a long sentence of anna"},
    "OidcSignIn": {"id_token": "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhbm5hIn0.c2lnbmF0dXJl"},
    "PasswordChange": {"current": "a long sentence of anna", "new": "another sentence of anna"},
    "PasswordRequest": {"password": "a long sentence of anna"},
    "InvitationRequest": {"expires_in_hours": 72},
    "TokenRequest": {"name": "nightly-sweep", "scopes": ["submit"], "expires_in_days": 90},
    "Registration": {"worker_id": "node-1-0123", "name": "node-1", "host": "node-1", "slots": 2, "device": "gpu"},
    "Heartbeat": {"holding": [{"run_id": "06h0c81ndwa9x6sd", "attempt": 1}]},
    "EventBatch": {
        "attempt": 1,
        "records": [
            {
                "seq": 2,
                "time": 1767225600.0,
                "event": {"type": "metrics", "step": 100, "epoch": 1.0, "elapsed": 9.5, "values": {"test/top1": 61.2}},
            }
        ],
    },
    "ClaimRequest": {"key": "0123456789", "free_gpus": 1},
    "Outcome": {"attempt": 1, "outcome": "interrupted", "reason": "the worker is shutting down", "fault": False},
}
"""Examples of request bodies, by the name of their schema."""
_FASTAPI_ERRORS = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Replace the application's OpenAPI description; it is made once, at the first request."""
    original = app.openapi

    def with_problems() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(original())
        return app.openapi_schema

    app.openapi = with_problems  # type: ignore[method-assign]  # FastAPI's documented way


def operation_id(route: APIRoute) -> str:
    """Return an id such as ``runs-cancel``; client generators derive function names from it."""
    return "-".join([*map(str, route.tags[:1]), route.name]).replace(" ", "-").replace("_", "-")


def _with_problems(description: dict[str, Any]) -> dict[str, Any]:
    schemas = description["components"]["schemas"]
    for name in _FASTAPI_ERRORS:
        schemas.pop(name, None)
    _add(schemas, ProblemDetails, "")
    # The request forms, in which few fields are required; answers have every field.
    _add(schemas, ExperimentSpec, _REQUEST_SUFFIX)
    _add(schemas, SweepSpec, _REQUEST_SUFFIX)
    for path, operations in description["paths"].items():
        for operation in operations.values():
            _describe(path, operation)
    return description


def _add(schemas: dict[str, Any], model: type[BaseModel], suffix: str) -> None:
    schema = model.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}{suffix}")
    definitions = schema.pop("$defs", {})
    schemas.update({f"{name}{suffix}": definition for name, definition in definitions.items()})
    schemas[f"{model.__name__}{suffix}"] = schema


def _describe(path: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter.setdefault("description", _PARAMETERS[parameter["name"]])
    for content in operation.get("requestBody", {}).get("content", {}).values():
        model = content["schema"].get("anyOf", [content["schema"]])[0].get("$ref", "").removeprefix(_SCHEMAS)
        if model in _BODIES:
            content["example"] = _BODIES[model]
    responses: dict[str, Any] = operation["responses"]
    codes = {code for code in responses if code >= "400"} | {"429"}
    if operation.get("security"):
        codes |= {"401", "403"}
    if operation.get("requestBody"):
        codes |= {"408", "413", "507"}  # the body does not arrive, is too long, or the disk is full
    if path.startswith("/api/"):
        # A foreign Host; a foreign origin; an unknown project, also in X-DKD-Project; an unknown query parameter; an
        # internal error; the database is unavailable.
        # Every status is listed and none left to a default, so that a test can detect an unintended answer.
        codes |= {"400", "403", "404", "422", "500", "503"}
    for code in sorted(codes):
        description = responses.get(code, {}).get("description", "")
        text = description if description and code != "422" else HTTPStatus(int(code)).phrase
        responses[code] = {"description": text, "content": {MEDIA_TYPE: _problem(code)}}


def _problem(code: str) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": _SCHEMAS + ProblemDetails.__name__}}
    if code in _PROBLEMS:
        common = {"type": "about:blank", "title": HTTPStatus(int(code)).phrase, "status": int(code)}
        content["example"] = {**common, "errors": [], **_PROBLEMS[code]}
    return content
