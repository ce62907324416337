"""The description at /openapi.json agrees with what the backend does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.settings import Settings
from core.protocol import access, people, public, sessions, submissions, worker
from core.specs import ExperimentSpec, parse_experiment, parse_sweep
from core.specs.sweep import expand

PUBLIC = {
    "GET /api/v1/catalog": "Catalog",
    "POST /api/v1/experiments": "Experiment",
    "GET /api/v1/experiments": "ExperimentPage",
    "POST /api/v1/experiments/preview": "Preview",
    "GET /api/v1/experiments/{key}": "Experiment",
    "POST /api/v1/experiments/{key}/cancel": "Experiment",
    "GET /api/v1/runs": "RunPage",
    "GET /api/v1/runs/{run_id}": "Run",
    "POST /api/v1/runs/{run_id}/cancel": "Run",
    "POST /api/v1/runs/{run_id}/retry": "Run",
    "GET /api/v1/runs/{run_id}/metrics": "MetricsReply",
    "GET /api/v1/runs/{run_id}/logs": "LogsReply",
    "GET /api/v1/comparisons": "Comparison",
    "GET /api/v1/comparisons/overview": "Overview",
    "GET /api/v1/comparisons/claims": "PaperClaims",
    "GET /api/v1/comparisons/table": "ResultTable",
    "GET /api/v1/comparisons/metrics": "MeasuredMetrics",
    "GET /api/v1/leaderboard": "Leaderboard",
    "GET /api/v1/exports/runs/{run_id}": "RunRecord",
    "GET /api/v1/exports/experiment": "ExperimentRecord",
    "GET /api/v1/activity": "Activity",
    "GET /api/v1/time-left": "TimeLeft",
    "GET /api/v1/workers": "WorkerList",
    "GET /api/v1/teachers": "TeacherList",
    "POST /api/v1/experiments/bulk": "SubmittedExperiments",
    "POST /api/v1/experiments/{key}/clone": "Experiment",
    "PATCH /api/v1/experiments/{key}": "Experiment",
    "POST /api/v1/experiments/{key}/archive": "Experiment",
    "POST /api/v1/experiments/{key}/unarchive": "Experiment",
    "POST /api/v1/sweeps": "SubmittedExperiments",
    "POST /api/v1/sweeps/preview": "SweepPreview",
    "GET /api/v1/sweeps": "SweepList",
    "GET /api/v1/sweeps/{name}": "Sweep",
    "POST /api/v1/layouts": "NamedLayout",
    "GET /api/v1/layouts": "LayoutList",
    "GET /api/v1/layouts/{layout}": "NamedLayout",
    "GET /api/v1/runs/{run_id}/news": "RunUpdates",
    "GET /api/v1/runs/{run_id}/artifacts": "ArtifactList",
    "GET /api/v1/runs/{run_id}/detections": "DetectionImages",
    "GET /api/v1/runs/{run_id}/detections/{item}": "ImageDetections",
    "GET /api/v1/runs/{run_id}/predictions": "RunPredictions",
    "GET /api/v1/runs/{run_id}/predictions/confusion": "ConfusionMatrix",
    "GET /api/v1/runs/{run_id}/predictions/correlations": "CorrelationDifference",
    "GET /api/v1/runs/{run_id}/predictions/images": "PredictedImages",
    "GET /api/v1/runs/{run_id}/features": "RunFeatures",
    "GET /api/v1/runs/{run_id}/features/map": "FeatureMap",
    "GET /api/v1/comparisons/images": "ComparedOverImages",
    "GET /api/v1/comparisons/predictions": "ComparedPredictions",
    "GET /api/v1/comparisons/predictions/confusion": "ConfusionMatrix",
    "GET /api/v1/comparisons/predictions/correlations": "CorrelationDifference",
    "POST /api/v1/teachers/uploads": "Upload",
    "GET /api/v1/teachers/uploads": "UploadList",
    "POST /api/v1/tokens": "CreatedToken",
    "GET /api/v1/tokens": "TokenList",
    "DELETE /api/v1/tokens/{token_id}": "TokenInfo",
    "GET /api/v1/audit": "AuditPage",
    "GET /api/v1/projects": "ProjectList",
    "POST /api/v1/projects": "Project",
    "GET /api/v1/projects/{project}": "Project",
    "PATCH /api/v1/projects/{project}": "Project",
    "GET /api/v1/projects/{project}/quota": "Quota",
    "PATCH /api/v1/projects/{project}/quota": "Quota",
    "GET /api/v1/projects/{project}/members": "MemberList",
    "PUT /api/v1/projects/{project}/members/{person}": "MemberList",
    "GET /api/v1/people": "PersonList",
    "POST /api/v1/people": "Person",
    "GET /api/v1/people/{person}": "Person",
    "PATCH /api/v1/people/{person}": "Person",
    "PUT /api/v1/people/{person}/password": "EndedSessions",
    "DELETE /api/v1/people/{person}/password": "EndedSessions",
    "POST /api/v1/people/{person}/invitation": "Invitation",
    "DELETE /api/v1/people/{person}/identities": "EndedSessions",
    "POST /api/v1/sessions": "CreatedSession",
    "POST /api/v1/sessions/invitation": "CreatedSession",
    "POST /api/v1/sessions/oidc": "CreatedSession",
    "GET /api/v1/sessions": "SessionList",
    "GET /api/v1/sessions/{session}": "Session",
    "DELETE /api/v1/sessions": "EndedSessions",
    "DELETE /api/v1/sessions/{session}": "Session",
    "GET /api/v1/account": "Account",
    "PUT /api/v1/account/password": "EndedSessions",
}
WORKERS = {
    "POST /api/v1/worker/register": "RegistrationReply",
    "POST /api/v1/worker/{worker_id}/heartbeat": "HeartbeatReply",
    "POST /api/v1/worker/{worker_id}/claim": "ClaimReply",
    "POST /api/v1/worker/{worker_id}/runs/{run_id}/events": "EventReply",
}
SIGN_IN = {"POST /api/v1/sessions", "POST /api/v1/sessions/invitation", "POST /api/v1/sessions/oidc"}
"""Routes that need no token."""
WITHOUT_JSON = {
    "GET /api/v1/runs/{run_id}/events": "text/event-stream",
    "GET /api/v1/runs/{run_id}/pictures/{item}": "image/jpeg",
    "GET /metrics": "text/plain",
}


@pytest.fixture
def description(migrated_file: Any) -> dict[str, Any]:
    app = create_app(Settings(database_url=f"sqlite:///{migrated_file}", allowed_hosts=("testserver",)))
    with TestClient(app) as client:
        document: dict[str, Any] = client.get("/openapi.json").json()
        return document


def _operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


def test_description_has_every_route_with_its_response(description: dict[str, Any]) -> None:
    responses = {}
    for name, operation in _operations(description):
        answer = operation["responses"].get("201") or operation["responses"].get("200")
        content = (answer or {}).get("content", {})
        for kind, body in content.items():
            if kind == "application/json":
                responses[name] = body["schema"].get("$ref", "").rpartition("/")[2]
            elif "application/json" not in content:
                responses[name] = kind
    assert PUBLIC.items() | WORKERS.items() | WITHOUT_JSON.items() <= responses.items()
    assert {"GET /healthz", "GET /readyz"} <= responses.keys()


def test_every_error_is_a_problem(description: dict[str, Any]) -> None:
    problem = {"$ref": "#/components/schemas/ProblemDetails"}
    for name, operation in _operations(description):
        errors = {code: body for code, body in operation["responses"].items() if not code.startswith("2")}
        for body in errors.values():
            assert body["content"].keys() == {"application/problem+json"}, name
            assert body["content"]["application/problem+json"]["schema"] == problem
        if " /api/" in name:
            assert {"400", "401", "403", "422", "500", "503"} <= errors.keys()
            assert bool(operation.get("security")) != (name in SIGN_IN)
        if "{" in name:
            assert "404" in errors
        if "requestBody" in operation:
            assert "413" in errors
    assert "HTTPValidationError" not in str(description)
    assert description["components"]["schemas"]["ProblemField"]["properties"].keys() == {"path", "message"}


def test_described_conflicts_are_those_of_the_routes(description: dict[str, Any]) -> None:
    conflicts = {name for name, operation in _operations(description) if "409" in operation["responses"]}
    assert conflicts == {
        "POST /api/v1/experiments",
        "POST /api/v1/experiments/{key}/resume",
        "POST /api/v1/runs/{run_id}/resume",
        "GET /api/v1/runs/{run_id}/detections",
        "GET /api/v1/runs/{run_id}/detections/{item}",
        "GET /api/v1/runs/{run_id}/pictures/{item}",
        "GET /api/v1/runs/{run_id}/predictions",
        "GET /api/v1/runs/{run_id}/predictions/confusion",
        "GET /api/v1/runs/{run_id}/predictions/correlations",
        "GET /api/v1/runs/{run_id}/predictions/images",
        "GET /api/v1/runs/{run_id}/features",
        "GET /api/v1/runs/{run_id}/features/map",
        "POST /api/v1/runs/{run_id}/cancel",
        "POST /api/v1/runs/{run_id}/priority",
        "POST /api/v1/runs/{run_id}/retry",
        "POST /api/v1/experiments/bulk",
        "POST /api/v1/experiments/{key}/clone",
        "PATCH /api/v1/experiments/{key}",
        "DELETE /api/v1/experiments/{key}",
        "DELETE /api/v1/runs/{run_id}",
        "POST /api/v1/sweeps",
        "POST /api/v1/layouts",
        "POST /api/v1/teachers/uploads",
        "DELETE /api/v1/teachers/uploads/{sha256}",
        "POST /api/v1/tokens",
        "POST /api/v1/tokens/{token_id}/rotate",
        "DELETE /api/v1/tokens/{token_id}",
        "POST /api/v1/projects",
        "PATCH /api/v1/projects/{project}",
        "POST /api/v1/people",
        "PATCH /api/v1/people/{person}",
        "GET /api/v1/account",
        "PUT /api/v1/account/password",
        "GET /api/v1/sessions",
        "GET /api/v1/sessions/{session}",
        "DELETE /api/v1/sessions",
        "DELETE /api/v1/sessions/{session}",
        "POST /api/v1/workers/{key}/drain",
        "POST /api/v1/worker/{worker_id}/runs/{run_id}/events",
        "POST /api/v1/worker/{worker_id}/runs/{run_id}/finish",
    }


def test_every_operation_has_a_unique_id_and_a_description(description: dict[str, Any]) -> None:
    operations = [operation for _, operation in _operations(description)]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation.get("description") for operation in operations)


def test_every_reference_has_a_target(description: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for item in node.values():
                yield from references(item)
        elif isinstance(node, list):
            for item in node:
                yield from references(item)

    for reference in set(references(description)):
        node: Any = description
        for part in reference.removeprefix("#/").split("/"):
            assert part in node, reference
            node = node[part]


def test_spec_is_described_in_the_request_body(description: dict[str, Any]) -> None:
    body = description["paths"]["/api/v1/experiments"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    required = ExperimentSpec.model_json_schema()["required"]
    resolved = description["components"]["schemas"][body["$ref"].rpartition("/")[2]] if "$ref" in body else body
    assert resolved["required"] == required


def test_backend_accepts_the_examples(description: dict[str, Any]) -> None:
    for path, parse in (
        ("/api/v1/experiments", parse_experiment),
        ("/api/v1/sweeps", lambda data: expand(parse_sweep(data))),
        ("/api/v1/experiments/bulk", lambda data: [parse_experiment(item) for item in data["experiments"]]),
    ):
        content = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert parse(content["example"])


def test_api_docs_page_loads_local_files_only(migrated_file: Any) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{migrated_file}", allowed_hosts=("testserver",)))
    with TestClient(app) as client:
        page = client.get("/docs")
        assert page.status_code == 200
        sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(sources) >= 3
        for source in sources:
            assert source.startswith("/docs/assets/")
            assert client.get(source).status_code == 200


def test_every_parameter_is_described_and_every_body_has_an_example(settings: Settings) -> None:
    shapes = {**vars(public), **vars(access), **vars(people), **vars(sessions), **vars(submissions), **vars(worker)}
    seen = set()
    for path, operations in create_app(settings).openapi()["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), (path, parameter["name"])
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            assert content["example"], path
            name = content["schema"].get("anyOf", [content["schema"]])[0].get("$ref", "").rpartition("/")[2]
            if name in shapes:
                assert shapes[name].model_validate(content["example"])
                seen.add(name)
    assert {"CloneRequest", "TokenRequest", "Outcome"} <= seen
