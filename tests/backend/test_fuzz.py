"""No input causes a 5xx, and everything accepted can be read: bodies, queries, cursors, ids, the worker protocol.

Every value of a valid request is replaced, one at a time, by unexpected ones: integers up to 10^400, nesting up to
10^4, lone surrogates, invisible characters. They are chosen with a fixed seed, so that every test run sends the same.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest

from core.protocol import activity, public
from tests.backend.conftest import TestClient
from tests.backend.lab import TEACHER_WEIGHTS, Json, Lab, checkpoint, log, metrics, plain, spec, started

_HOLE = "\u0001hole\u0001"
NASTY = [
    "1" + "0" * 400, "-1" + "0" * 400, "9" * 5000, "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "2147483648", "9007199254740993", "1e308", "-1e308", "1e400", "5e-324", "-0.0", "-1", "0", "1.5", "NaN", "Infinity",
    "null", "true", "[]", "{}", "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "[[]]",
    "[" + "0," * 20_000 + "0]", "{" + ",".join(f'"k{i}":0' for i in range(20_000)) + "}", '{"a":1,"a":2}',
    '"Infinity"', '"NaN"', '"' + "9" * 400 + '"', '""', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"a\\u001b[31m"',
    '"\\u0085"', '"\\u202e"', '"\\u3164"', '"\\u2800"', '"a\\ufe0f"', '"\\ufdd0"', '"e' + "\\u0301" * 90 + '"',
    '"\\ue000"',
    '"' + "x" * 100_000 + '"', '"0..99999999999999999999"', '{"from":0,"to":1' + "0" * 400 + "}", '"../../etc/passwd"',
    '"9999-12-31T23:59:59-23:59"', '"0001-01-01T00:00:00+23:59"', '"pretrained"', '"upload:\\u0000"', '["\\ud800"]',
]  # fmt: skip
PER_PLACE = 7
"""Of the above, chosen anew for every place of every body."""


@pytest.fixture
def database_url(tmp_path: Any, migrated_file: Any) -> str:
    """Return the URL of a SQLite database: these checks precede every query, so that PostgreSQL adds nothing."""
    path = tmp_path / "dkd.sqlite3"
    path.write_bytes(migrated_file.read_bytes())
    return f"sqlite:///{path}"


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every value, and of one additional field of every object."""
    yield path
    if isinstance(data, dict):
        yield (*path, "another")
        for key, value in data.items():
            yield from places(value, (*path, key))
    if isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*path, index))


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = put(copy[path[0]] if path[0] != "another" else None, path[1:], value)
    return copy


def raw(data: Any, path: tuple[Any, ...], nasty: str) -> bytes:
    return json.dumps(put(data, path, _HOLE)).replace(json.dumps(_HOLE), nasty).encode()


def whole_spec() -> Json:
    return spec(
        "fuzzed",
        notes="n",
        tags=["a"],
        priority=1,
        webhook=None,
        preset="",
        teacher={"model": "resnet8", "seed": 1, "weights": {"source": "upload:x"}, "training": {"epochs": 1}},
        methods=[{"name": "dkd", "label": "d", "params": {"beta": 2.0, "ramp_epochs": 3}}, "kd"],
        dataset={"name": "synthetic", "params": {"num_classes": 4, "noise": 0.5}},
        training={
            "epochs": 2,
            "batch_size": 8,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "schedule": {"name": "step", "milestones": [1], "warmup_epochs": 0},
            "freeze_batch_norm_after": 1,
            "collapse_every": 1,
            "stylised": "x",
            "speed": {"compile": "off"},
        },
        resources={"device": "cpu", "gpus": 1, "labels": ["a"]},
    )


def sweep() -> Json:
    base = {name: value for name, value in plain().items() if name != "name"}
    return {
        "name": "s",
        "experiment": base,
        "grid": {"training.epochs": [1, 2]},
        "points": [{"seeds": [1]}],
        "random": {"training.optimizer.lr": {"low": 0.1, "high": 0.2, "log": True}},
        "draws": 1,
        "seed": 1,
        "max_runs": 100,
    }


def sender(lab: Lab, problems: list[str]) -> Any:
    count = 0

    def send(client: TestClient, method: str, path: str, **request: Any) -> int:
        nonlocal count
        count += 1
        try:
            answer = client.request(method, path, **request)
        except Exception as error:  # noqa: BLE001 (the test client raises what the server would answer 500 to)
            problems.append(f"{method} {path} {str(request)[:300]}: {error!r}"[:500])
            return count
        if answer.status_code >= 500:
            problems.append(f"{method} {path} {str(request)[:300]}: {answer.status_code} {answer.text[:200]}")
        if len(answer.content) > 200_000:
            problems.append(f"{method} {path}: an answer of {len(answer.content)} bytes")
        return count

    return send


def read_all(lab: Lab) -> None:
    """Read every list with the models of the client."""
    public.ExperimentPage.model_validate_json(lab.admin.get("/api/v1/experiments?limit=500&count=true").content)
    page = public.RunPage.model_validate_json(lab.admin.get("/api/v1/runs?limit=500&sort=-top1").content)
    public.WorkerList.model_validate_json(lab.admin.get("/api/v1/workers").content)
    public.TeacherList.model_validate_json(lab.admin.get("/api/v1/teachers").content)
    activity.Activity.model_validate_json(lab.admin.get("/api/v1/activity").content)
    assert lab.admin.get("/metrics").status_code == 200
    for run in page.items[:5]:
        public.Run.model_validate_json(lab.admin.get(f"/api/v1/runs/{run.id}").content)
        public.MetricsReply.model_validate_json(lab.admin.get(f"/api/v1/runs/{run.id}/metrics").content)
        public.LogsReply.model_validate_json(lab.admin.get(f"/api/v1/runs/{run.id}/logs").content)


def fuzz(client: TestClient, send: Any, path: str, body: Any, method: str = "POST", each: int = PER_PLACE) -> int:
    choice = random.Random(f"{method} {path}")
    count = 0
    for place in places(body):
        for nasty in choice.sample(NASTY, each):
            count = send(
                client, method, path, content=raw(body, place, nasty), headers={"Content-Type": "application/json"}
            )
    return count


def test_invalid_bodies_of_users_cause_no_server_error(lab: Lab) -> None:
    lab.register()
    lab.submit(plain("clone me"))
    run_id = lab.submit(plain("other"))["runs"][0]["id"]
    problems: list[str] = []
    send = sender(lab, problems)
    fuzz(lab.admin, send, "/api/v1/experiments", whole_spec())
    fuzz(lab.admin, send, "/api/v1/experiments/preview", whole_spec())
    fuzz(lab.admin, send, "/api/v1/experiments/bulk", {"experiments": [plain("a"), plain("b")]})
    fuzz(lab.admin, send, "/api/v1/sweeps", sweep())
    fuzz(lab.admin, send, "/api/v1/sweeps/preview", sweep())
    clone = {"name": "c", "changes": {"training.epochs": 3, "methods.0.label": "x", "a.b": {"c": [1]}}}
    fuzz(lab.admin, send, "/api/v1/experiments/clone%20me/clone", clone)
    change = {"tags": ["a"], "add_tags": ["b"], "remove_tags": ["c"], "notes": "n"}
    fuzz(lab.admin, send, "/api/v1/experiments/clone%20me", change, "PATCH")
    for path in ("/api/v1/experiments/other/priority", f"/api/v1/runs/{run_id}/priority"):
        fuzz(lab.admin, send, path, {"priority": 1})
    fuzz(lab.admin, send, "/api/v1/tokens", {"name": "t", "scopes": ["read"], "expires_in_days": 1.5})
    token_id = lab.admin.post("/api/v1/tokens", json={"name": "rotated", "scopes": ["read"]}).json()["id"]
    fuzz(lab.admin, send, f"/api/v1/tokens/{token_id}/rotate", {"overlap_hours": 1.5, "expires_in_days": 30})
    figure = {"metric": "test/top1", "right": "train/loss", "log": True}
    layout = {"figures": [figure], "x": "steps", "spread": "sd", "smoothing": 0.5, "size": "large", "teachers": True}
    fuzz(lab.admin, send, "/api/v1/layouts", {"name": "board", "layout": layout, "replace": True})
    count = fuzz(lab.admin, send, "/api/v1/workers/worker-one/drain", {"draining": True})
    assert not problems, "\n".join(problems[:10])
    assert count > 1000
    read_all(lab)


def test_invalid_reports_of_workers_cause_no_server_error(lab: Lab) -> None:
    lab.register()
    lab.submit(plain("run", runs=40, resources={"labels": []}))
    problems: list[str] = []
    send = sender(lab, problems)
    gpu = {"index": 0, "name": "g", "use": 1.0, "memory_used": 1, "memory_total": 2, "foreign": 0}
    registration = {
        "worker_id": "worker-two", "name": "n", "host": "h", "slots": 1, "device": "gpu", "gpus": 1, "labels": ["a"],
        "version": "1",
    }  # fmt: skip
    fuzz(lab.worker, send, "/api/v1/worker/register", registration)
    claim = lab.claim()
    run = f"/api/v1/worker/worker-one/runs/{claim['run_id']}"
    holding = [{"run_id": claim["run_id"], "attempt": 1}]
    fuzz(
        lab.worker, send, "/api/v1/worker/worker-one/heartbeat", {"holding": holding, "gpus": [gpu], "problems": ["p"]}
    )
    finished = {"type": "finished", "weights": "w", "sha256": TEACHER_WEIGHTS, "summary": {"test/top1": 1.0}}
    records = [
        started(1),
        metrics(2, 10, {"test/top1": 1.0}),
        log(3, "l"),
        checkpoint(4, 10),
        {"seq": 5, "time": 5.0, "event": {"type": "stopped", "step": 1}},
        {"seq": 6, "time": 6.0, "event": {"type": "failed", "kind": "nan", "reason": "r"}},
        {"seq": 7, "time": 7.0, "event": finished},
    ]
    fuzz(lab.worker, send, f"{run}/events", {"attempt": 1, "records": records})
    read_all(lab)
    outcome = {
        "attempt": 1, "outcome": "interrupted", "reason": "r", "fault": True, "log_tail": ["l"],
        "weights": {"path": f"{claim['folder']}/w", "sha256": TEACHER_WEIGHTS},
    }  # fmt: skip
    fuzz(lab.worker, send, f"{run}/finish", outcome)
    request = {"key": "12345678", "free_gpus": 1, "usable_gpus": 1}
    count = fuzz(lab.worker, send, "/api/v1/worker/worker-one/claim", request)
    assert not problems, "\n".join(problems[:10])
    assert count > 400
    read_all(lab)


_VALUES: tuple[Any, ...] = (
    10**400,
    -(2**63) - 1,
    1e308,
    "9999-12-31T23:59:59-23:59",
    "\ud800",
    "\0",
    None,
    True,
    [],
    {},
)
CURSORS: list[str] = [
    base64.urlsafe_b64encode(json.dumps([sort, value, row]).encode()).decode()
    for sort in ("priority", "-top1", "started")
    for value in _VALUES
    for row in ("0" * 16, "\0", 1)
] + [
    base64.urlsafe_b64encode(text.encode()).decode()
    for text in ("[" * 1000, "NaN", '["-top1", NaN, "x"]', "{}", "1" * 900)
]
TEXTS = [
    "\0", "\x1b", "\u3164", "e" + "\u0301" * 90, "x" * 5000, "9" * 400, "-" + "9" * 400, "9223372036854775808", "1e400",
    "1e308", "nan", "inf", "-inf", "-1", "0", "%", "_", "\\", "'", '"', "9999-12-31T23:59:59-23:59", "0001-01-01", "٣",
    "1" + "0" * 16, "true", "null", "[]", "..", "a/b", "a,b",
]  # fmt: skip
BYTES = [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"a\x00b"]


def test_invalid_queries_ids_and_cursors_cause_no_server_error(lab: Lab) -> None:
    lab.register()
    experiment = lab.submit(spec("one"))
    lab.submit(plain("two", runs=3))
    claim = lab.claim()
    lab.events(claim, started(1), metrics(2, 10, {"test/top1": 50.0}))
    problems: list[str] = []
    send = sender(lab, problems)
    known = {
        "run_id": claim["run_id"], "key": experiment["id"], "worker_id": "worker-one", "token_id": "0" * 16,
        "artifact_id": "0" * 16, "sha256": "0" * 64, "item": "0", "name": "none", "layout": "none",
        "project": "default", "person": "nobody", "session": "current",
    }  # fmt: skip
    count = 0
    for path, methods in lab.app.openapi()["paths"].items():
        for method, about in methods.items():
            if path.endswith("/events") and method == "get":
                continue
            choice = random.Random(f"{method} {path}")
            client = lab.worker if path.startswith("/api/v1/worker/") else lab.admin
            good = re.sub(r"{(\w+)}", lambda match: known[match[1]], path)
            needed = "experiment=two&" if "/comparisons" in path or path.endswith(("/experiment", "/time-left")) else ""
            for name in re.findall(r"{(\w+)}", path):
                for text in [*map(quote, choice.sample(TEXTS, 10)), *map(quote_from_bytes, BYTES)]:
                    changed_path = path.replace(f"{{{name}}}", text)
                    count = send(client, method, re.sub(r"{(\w+)}", lambda match: known[match[1]], changed_path))
            for parameter in about.get("parameters", ()):
                if parameter["in"] == "query" and method == "get":
                    values = [*map(quote, choice.sample(TEXTS, 10)), *map(quote_from_bytes, BYTES)]
                    wait = "&wait=0" if path.endswith("/news") and parameter["name"] != "wait" else ""
                    for value in [*values, *(CURSORS[::5] if parameter["name"] == "cursor" else [])]:
                        count = send(client, method, f"{good}?{needed}{parameter['name']}={value}{wait}")
    for order in ("priority", "-top1", "started"):
        for cursor in CURSORS:
            count = send(lab.admin, "get", f"/api/v1/runs?sort={order}&cursor={cursor}")
    assert not problems, "\n".join(problems[:10])
    assert count > 1500
    read_all(lab)


def test_invalid_uploads_cause_no_server_error(lab: Lab) -> None:
    problems: list[str] = []
    send = sender(lab, problems)
    good = {"t": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, "__metadata__": {"a": "b"}}
    for place in places(good):
        for nasty in NASTY:
            header = raw(good, place, nasty)
            body = len(header).to_bytes(8, "little") + header + b"\0\0"
            send(lab.admin, "POST", "/api/v1/teachers/uploads?name=x", content=body)
    for body in (b"", b"\xff" * 8, b"\xff" * 100, (2**63).to_bytes(8, "little") + b"{}", b"\2" + b"\0" * 7 + b"{}"):
        send(lab.admin, "POST", "/api/v1/teachers/uploads?name=x", content=body)
    deep = {"t": {"dtype": "U8", "shape": [4611686018427387904] * 80_000, "data_offsets": [0, 4]}}
    header = json.dumps(deep).encode()
    send(lab.admin, "POST", "/api/v1/teachers/uploads?name=x", content=len(header).to_bytes(8, "little") + header)
    assert not problems, "\n".join(problems[:10])
    assert lab.admin.get("/api/v1/teachers/uploads").status_code == 200
