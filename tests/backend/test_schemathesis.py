"""Requests generated from the OpenAPI description of every route: no 5xx, and no undescribed response."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from schemathesis import checks
from schemathesis.core.result import Err

from backend.app import create_app
from backend.db import Database
from backend.settings import Settings
from tests.backend.conftest import ADMIN_TOKEN, WORKER_TOKEN
from tests.backend.lab import plain, spec
from tests.services import free_port

EXAMPLES = 16
_CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)
_STREAM = "/api/v1/runs/{run_id}/events"


@pytest.fixture
def database_url(tmp_path: Any, migrated_file: Any) -> str:
    """Return the URL of a SQLite database: these checks precede every query, so that PostgreSQL adds nothing."""
    path = tmp_path / "dkd.sqlite3"
    path.write_bytes(migrated_file.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def served(settings: Settings, database: Database) -> Iterator[str]:
    changes: dict[str, Any] = {"allowed_hosts": ("127.0.0.1",), "reconcile_seconds": 3600.0, "log_level": "error"}
    app: FastAPI = create_app(settings.model_copy(update=changes))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, ws="none", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    while not server.started:
        assert thread.is_alive()
    yield url
    app.state.stopping.set()
    server.should_exit = True
    thread.join()


def _known(url: str, http: requests.Session) -> dict[str, list[str]]:
    """Create rows; return their ids by the name of the path's parameter."""
    made = [http.post(f"{url}/api/v1/experiments", json=body).json() for body in (spec("one"), plain("two", runs=3))]
    body: dict[str, Any] = {"worker_id": "worker-one", "name": "w", "host": "h", "slots": 2, "device": "cpu"}
    worker = {"Authorization": f"Bearer {WORKER_TOKEN}"}
    requests.post(f"{url}/api/v1/worker/register", json=body, headers=worker, timeout=10)
    claim = requests.post(f"{url}/api/v1/worker/worker-one/claim", headers=worker, timeout=10).json()["claim"]
    token = http.post(f"{url}/api/v1/tokens", json={"name": "t", "scopes": ["read"]}).json()
    return {
        "run_id": [claim["run_id"], *(run["id"] for one in made for run in one["runs"])],
        "key": [item for one in made for item in (one["id"], one["name"])],
        "worker_id": ["worker-one"],
        "token_id": [token["id"]],
    }


def _exercise(operation: Any, url: str, known: dict[str, list[str]]) -> int:
    """Send valid requests and some invalid ones; return their number."""
    token = WORKER_TOKEN if operation.path.startswith("/api/v1/worker/") else ADMIN_TOKEN
    choice = random.Random(operation.label)
    count = 0
    cases = operation.as_strategy()
    if operation.body or operation.query:  # else there is nothing that could be invalid
        cases |= operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @seed(0)
    @hypothesis_settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case: Any) -> None:
        nonlocal count
        for name in case.path_parameters or {}:
            if name in known and choice.random() < 0.6:
                case.path_parameters[name] = choice.choice(known[name])
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        response = case.call(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20)
        count += 1
        case.validate_response(response, checks=_CHECKS)

    check()
    return count


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of the generator
def test_every_response_conforms_to_the_openapi_description(served: str) -> None:
    http = requests.Session()
    http.headers["Authorization"] = f"Bearer {ADMIN_TOKEN}"
    known = _known(served, http)
    description = http.get(f"{served}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    seen: dict[str, int] = {}
    problems: list[str] = []
    for parsed in schema.get_all_operations():
        if isinstance(parsed, Err):
            raise parsed.err()
        operation = parsed.ok()
        if operation.path == _STREAM:
            continue
        try:
            seen[operation.label] = _exercise(operation, served, known)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 (all errors are reported together)
            problems.append(f"{operation.label}: {getattr(error, 'exceptions', error)}")
    assert not problems, "\n\n".join(problems)
    assert len(seen) >= 45
    assert sum(seen.values()) > 300
