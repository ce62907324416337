"""Arbitrary reports of a worker are refused or stored, and everything stored is readable by the client."""

from __future__ import annotations

import copy
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client import Client
from client.cli.app import run as dkd
from common.report_bounds import CUT, MAX_LINE, MAX_MESSAGE, MAX_REASON
from tests import served
from tests.backend.concurrently import concurrently
from tests.backend.lab import Json, Lab, checkpoint, log, metrics, plain, started
from tests.served import ADMIN_TOKEN, WORKER_TOKEN

ESC = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egpj"
HUGE = 3 * MAX_MESSAGE
_number = itertools.count(1)

RAW = {
    "inf": "Infinity",
    "-inf": "-Infinity",
    "nan": "NaN",
    "1e999": "1e999",
    "10^400": str(10**400),
    "deep": "[" * 300 + "]" * 300,
}
"""Values that ``json.dumps`` does not write, by their placeholder."""

hostile = st.one_of(
    st.sampled_from([f"RAW:{name}" for name in RAW]),
    st.sampled_from([-1, 0, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63) - 1, 1e308, -1e308, 0.5]),
    st.sampled_from([None, True, [], {}, [[]], {"a": {"b": 1}}, "", " ", "\0", "NaN", "Infinity", ESC, "x" * HUGE]),
    st.sampled_from(["../../etc/passwd", "/etc/passwd", "a\\b", "=1+1", "\u3164", "a" * 64, "A" * 64, "0" * 63]),
    st.sampled_from([["y"] * 5000, {f"n{index}": "v" for index in range(3000)}, {ESC: ESC}, {"ranks": "9" * 5000}]),
    st.text(max_size=20),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)

BODIES: Mapping[str, Json] = {
    "register": {
        **{"worker_id": "hostile-one", "name": "hostile", "host": "node", "slots": 900, "device": "gpu", "gpus": 8},
        **{"labels": ["fast"], "version": "1"},
    },
    "heartbeat": {
        "holding": [{"run_id": "RUN", "attempt": 1}],
        "gpus": [{"index": 0, "name": "H200", "use": 5.0, "memory_used": 1, "memory_total": 2, "foreign": 0}],
        "problems": ["hot"],
    },
    "claim": {"key": "a-key-of-ours", "free_gpus": 1, "usable_gpus": 1},
    "started": {"attempt": 1, "records": [started(1)]},
    "metrics": {"attempt": 1, "records": [started(1), metrics(2, 5, {"test/top1": 50.0, "train/loss": 1.0})]},
    "log": {"attempt": 1, "records": [started(1), log(2, "hello")]},
    "checkpoint": {"attempt": 1, "records": [started(1), checkpoint(2, 5)]},
    "failed": {"attempt": 1, "outcome": "failed", "reason": "why", "log_tail": ["a", "b"], "fault": True},
    "succeeded": {
        **{"attempt": 1, "outcome": "succeeded"},
        "weights": {"path": "runs/RUN/attempt-1/weights.safetensors", "sha256": "a" * 64},
    },
}


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the paths of all fields of a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


PLACES = [(name, path) for name, body in BODIES.items() for path in paths(body)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("hostile")
    with served.backend(folder) as url:
        yield url, folder


def _claimed(admin: httpx.Client, worker: httpx.Client) -> tuple[str, str]:
    """Register a new worker and claim the one run that it may have."""
    name = f"only-{next(_number)}"
    labels = {"resources": {"labels": [name]}}
    worker.post(
        "/register",
        json={"worker_id": name + "-id", "name": name, "host": "h", "slots": 4, "device": "cpu", "labels": [name]},
    )
    admin.post("/experiments", json=plain(f"of {name}", runs=1, **labels)).raise_for_status()
    claim = worker.post(f"/{name}-id/claim", json={}).json()["claim"]
    return f"{name}-id", claim["run_id"]


def _said(body: Json, changes: list[tuple[tuple[Any, ...], Any]], run_id: str) -> bytes:
    body = json.loads(json.dumps(body).replace("RUN", run_id))
    for path, value in changes:
        place: Any = body
        with suppress(KeyError, IndexError, TypeError):  # the previous change has removed the field
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = copy.deepcopy(value)
    text = json.dumps(body)
    for name, raw in RAW.items():
        text = text.replace(f'"RAW:{name}"', raw)
    return text.encode()


def _read_everything(url: str, run_id: str) -> None:
    with Client(url, ADMIN_TOKEN) as client:
        page = client.runs(limit=20)
        client.run(run_id)
        for name in (item.experiment_id for item in page.items[:1]):
            client.experiment(name)
            client.comparison(name)
            client.experiment_record(name)
            client.experiment_csv(name)
        client.experiments(limit=20)
        client.metrics(run_id)
        client.metrics(run_id, max_points=1)
        client.logs(run_id)
        client.activity()
        client.workers()
        client.teachers()
        client.run_record(run_id)
        for _ in client.events(run_id) if client.run(run_id).state == "failed" else ():
            pass


@example(place=("metrics", ("records", 1, "event", "epoch")), value="RAW:inf", second=0, twice=False)
@example(place=("metrics", ("records", 1, "event", "values", "test/top1")), value="RAW:10^400", second=0, twice=False)
@example(place=("metrics", ("records", 1, "event", "step")), value=2**63, second=0, twice=False)
@example(place=("started", ("records", 0, "event", "parameters")), value=2**63, second=0, twice=False)
@example(place=("started", ("records", 0, "event", "total_epochs")), value=10**400, second=0, twice=False)
@example(place=("started", ("records", 0, "event", "environment")), value={"x": "y" * 10**7}, second=0, twice=False)
@example(place=("failed", ("log_tail",)), value=["y" * 150_000] * 200, second=0, twice=False)
@example(place=("failed", ("attempt",)), value=2**63, second=0, twice=False)
@example(place=("failed", ("reason",)), value=ESC, second=0, twice=False)
@example(place=("succeeded", ("weights", "sha256")), value="a" * 10**7, second=0, twice=False)
@example(place=("register", ("host",)), value=ESC, second=0, twice=False)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=hostile, second=hostile, twice=st.booleans())
def test_accepted_reports_are_readable_by_the_client(
    stack: tuple[str, Path], place: tuple[str, tuple[Any, ...]], value: Any, second: Any, twice: bool
) -> None:
    url, _ = stack
    kind, path = place
    others = [other for other in paths(BODIES[kind]) if other != path]
    changes = [(path, value), *([(others[len(str(second)) % len(others)], second)] if twice and others else [])]
    with (
        httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) as admin,
        httpx.Client(base_url=f"{url}/api/v1/worker", headers={"Authorization": f"Bearer {WORKER_TOKEN}"}) as worker,
    ):
        worker_id, run_id = _claimed(admin, worker)
        address = {
            "register": "/register",
            "heartbeat": f"/{worker_id}/heartbeat",
            "claim": f"/{worker_id}/claim",
            "failed": f"/{worker_id}/runs/{run_id}/finish",
            "succeeded": f"/{worker_id}/runs/{run_id}/finish",
        }.get(kind, f"/{worker_id}/runs/{run_id}/events")
        content = _said(BODIES[kind], changes, run_id)
        answer = worker.post(address, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (content[:500], answer.text)
        for listed in ("/runs", f"/runs/{run_id}", "/workers", f"/runs/{run_id}/logs"):
            text = admin.get(listed).text
            assert len(text) < 2_000_000
            assert not set(text) & {"\x1b", "\x9b", "\u202e"}
            assert "\\u001b" not in text, "no reply contains an escape character"
        worker.post(f"/{worker_id}/runs/{run_id}/finish", json={"attempt": 1, "outcome": "failed", "reason": "over"})
        _read_everything(url, run_id)


def test_rows_of_older_versions_are_readable(
    stack: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = stack
    with (
        httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) as admin,
        httpx.Client(base_url=f"{url}/api/v1/worker", headers={"Authorization": f"Bearer {WORKER_TOKEN}"}) as worker,
    ):
        worker_id, run_id = _claimed(admin, worker)
        records = [
            started(1),
            metrics(2, 5, {"test/top1": 50.0, "train/loss": 1.0}),
            metrics(3, 6, {"test/top1": 51.0}),
        ]
        worker.post(f"/{worker_id}/runs/{run_id}/events", json={"attempt": 1, "records": records}).raise_for_status()
    (database,) = folder.rglob("*.sqlite3")
    with closing(sqlite3.connect(database)) as connection:
        environment = json.dumps({"x": "y" * 3_000_000, ESC: ESC, "ranks": "9" * 5000})
        changed = (environment, json.dumps(["z" * 3_000_000]), 2**63 - 1, run_id)
        connection.execute(
            "UPDATE runs SET epoch = 9e999, environment = ?, log_tail = ?, step = ? WHERE id = ?", changed
        )
        connection.execute("UPDATE metric_points SET epoch = 9e999, elapsed = 9e999 WHERE run_id = ?", (run_id,))
        connection.execute("UPDATE metric_latest SET epoch = 9e999 WHERE run_id = ?", (run_id,))
        connection.execute("UPDATE attempts SET device = ? WHERE run_id = ?", ("d" * 3_000_000, run_id))
        report = '{"gpus": [{"index": 0, "use": Infinity, "memory_used": 1e400, "memory_total": 5}], "problems": []}'
        connection.execute("UPDATE workers SET report = ? WHERE id = ?", (report, worker_id))
        connection.commit()
    _read_everything(url, run_id)
    monkeypatch.setenv("DKD_API_URL", url)
    monkeypatch.setenv("DKD_API_TOKEN", ADMIN_TOKEN)
    for command in (["runs"], ["show", run_id], ["workers"], ["experiments"]):
        assert dkd(command) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    with Client(url, ADMIN_TOKEN) as client:
        assert client.run(run_id).epoch == 0.0
        assert len(client.run(run_id).model_dump_json()) < 1_000_000


def test_worker_gets_no_more_runs_than_slots(lab: Lab) -> None:
    lab.register(slots=2)
    lab.submit(plain(runs=5))
    first, second = lab.claim(key="first-key"), lab.claim(key="second-key")
    assert lab.try_claim(key="third-key") is None
    assert lab.claim(key="second-key")["run_id"] == second["run_id"], "a claim with a lost reply is repeated"
    lab.finish(first, "failed", reason="x")
    assert lab.claim(key="fourth-key")["run_id"] not in (first["run_id"], second["run_id"])
    assert lab.try_claim(key="fifth-key") is None


def test_gpu_worker_gets_no_more_gpus_than_slots(lab: Lab) -> None:
    lab.register(device="gpu", slots=4, gpus=4)
    for name, gpus in (("pair", 2), ("other", 2), ("third", 2)):
        lab.submit(plain(name, resources={"device": "gpu", "gpus": gpus}))
    for _ in range(2):
        lab.claim(free_gpus=1000, usable_gpus=1000)
    assert lab.try_claim(free_gpus=1000, usable_gpus=1000) is None


def test_slots_of_a_token_are_limited(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(max_token_slots=10)
    lab.register("first-worker", slots=6)
    lab.register("first-worker", slots=7)
    body = {"worker_id": "second-worker", "name": "n", "host": "h", "device": "cpu"}
    answer = lab.worker.post("/api/v1/worker/register", json=body | {"slots": 4})
    assert (answer.status_code, "DKD_MAX_TOKEN_SLOTS" in answer.text) == (409, True)
    assert lab.worker.post("/api/v1/worker/register", json=body | {"slots": 10**6}).status_code == 422
    lab.register("second-worker", slots=3)


def test_concurrent_registrations_get_distinct_names_and_limited_slots(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(max_token_slots=12)

    def register(lab: Lab, index: int) -> int:
        body = {"worker_id": f"worker-{index:06}", "name": "node", "host": "h", "slots": 2, "device": "cpu"}
        return lab.worker.post("/api/v1/worker/register", json=body).status_code

    assert sorted(concurrently(lab, 8, register)) == [200] * 6 + [409] * 2
    names = [worker["name"] for worker in lab.admin.get("/api/v1/workers").json()["items"]]
    assert len(set(names)) == len(names) == 6


def test_long_reason_and_log_are_cut_and_the_outcome_is_stored(lab: Lab) -> None:
    lab.register()
    lab.submit(plain())
    claim = lab.claim()
    lab.events(claim, started(1), log(2, "l" * HUGE + "\n" + ESC))
    lab.finish(claim, "failed", reason="r" * HUGE, log_tail=["t" * 2 * MAX_LINE] * 300)
    run = lab.run(claim["run_id"])
    assert run["state"] == "failed"
    assert (len(run["reason"]), run["reason"].endswith(CUT)) == (MAX_REASON, True)
    assert (len(run["log_tail"]), {len(line) for line in run["log_tail"]}) == (200, {MAX_LINE})


def test_run_has_at_most_ten_thousand_metrics(lab: Lab) -> None:
    lab.register()
    lab.submit(plain())
    claim = lab.claim()
    many = [metrics(seq, seq, {f"n{seq}/{index}": 1.0 for index in range(1000)}) for seq in range(2, 13)]
    answer = lab.post_events(claim, started(1), *many)
    assert (answer.status_code, "at most 10000 metrics" in answer.text) == (422, True)
    assert lab.events(claim, started(1), *many[:9]) == 10


@pytest.mark.parametrize("name", ["\u3164", "\u2800", "node\ufe0f", "e" + "\u0301" * 90])
def test_worker_name_must_be_visible(lab: Lab, name: str) -> None:
    body = {"worker_id": "second-worker", "name": name, "host": "h", "slots": 1, "device": "cpu"}
    answer = lab.worker.post("/api/v1/worker/register", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "name"
