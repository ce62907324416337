"""A fake backend: complete, valid replies with few details, and a transport that records requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from core.protocol.public import (
    Comparison,
    Convergence,
    Experiment,
    Interval,
    MethodResult,
    MetricValue,
    PairedDifference,
    Run,
    RunSummary,
    StateCounts,
)
from core.specs import ExperimentSpec, parse_experiment

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
Answer = Callable[[httpx.Request], httpx.Response]


def spec(name: str = "small", **changes: Any) -> ExperimentSpec:
    """Return a valid spec with two methods and two seeds."""
    data: dict[str, Any] = {
        "name": name,
        "dataset": "digits",
        "teacher": {"model": "resnet20"},
        "student": {"model": "small_cnn"},
        "methods": ["kd", "dkd"],
        "seeds": [0, 1],
        "training": {"epochs": 4},
    }
    return parse_experiment(data | changes)


SPEC = spec().model_dump(mode="json")


def run_summary(number: int = 1, **changes: Any) -> RunSummary:
    values: dict[str, Any] = {
        "id": f"run-{number}",
        "label": "dkd",
        "role": "student",
        "experiment_id": "exp-1",
        "experiment": "small",
        "state": "running",
        "dataset": "digits",
        "model": "small_cnn",
        "method": "dkd",
        "seed": 0,
        "step": 20,
        "total_steps": 40,
        "epoch": 2.0,
        "total_epochs": 4,
        "headline": "test/top1",
        "latest": {"test/top1": MetricValue(value=91.5, step=20, epoch=2.0)},
        "created_at": NOW,
    }
    return RunSummary.model_validate(values | changes)


def run(number: int = 1, **changes: Any) -> Run:
    summary = run_summary(number).model_dump()
    more: dict[str, Any] = {"spec": spec().plan()[1].spec.model_dump(mode="json"), "fingerprint": "v1-" + "0" * 32}
    return Run.model_validate(summary | more | changes)


def experiment(**changes: Any) -> Experiment:
    sample = spec()
    values: dict[str, Any] = {
        "id": "exp-1",
        "name": sample.name,
        "state": "active",
        "dataset": "digits",
        "teacher_model": "resnet20",
        "student_model": "small_cnn",
        "methods": [method.label for method in sample.methods],
        "counts": StateCounts(running=1, queued=1),
        "progress": 0.25,
        "created_at": NOW,
        "spec": sample.model_dump(mode="json"),
        "runs": [run_summary(1), run_summary(2, state="queued", step=0, latest={}, seed=1)],
    }
    return Experiment.model_validate(values | changes)


def comparison(**changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "experiment_id": "exp-1",
        "experiment": "small",
        "metric": "test/top1",
        "unit": "%",
        "test_size": 899,
        "resolution": 100 / 899,
        "teacher_top1": 98.0,
        "target_share": 0.95,
        "target": 93.1,
        "baseline": "kd",
        "groups": [
            MethodResult(
                label="kd",
                method="kd",
                n=2,
                mean=95.0,
                sd=0.5,
                values={0: 94.5, 1: 95.5},
                convergence=Convergence(target=93.1, reached=1, of=2, median_epochs=None, max_epochs=4),
            ),
            MethodResult(
                label="dkd",
                method="dkd",
                n=2,
                mean=96.25,
                sd=0.25,
                values={0: 96.0, 1: 96.5},
                convergence=Convergence(target=93.1, reached=2, of=2, median_epochs=2.5, max_epochs=4),
            ),
        ],
        "paired": [
            PairedDifference(
                label="dkd",
                baseline="kd",
                n=2,
                seeds=[0, 1],
                mean_difference=1.25,
                interval=Interval(low=-1.9, high=4.4),
                sentence="Two pairs cannot tell dkd from kd.",
            )
        ],
        "complete": True,
        "condition": "one teacher (seed 0)",
    }
    return Comparison.model_validate(values | changes)


def page(*items: Any) -> dict[str, Any]:
    return {"items": [item.model_dump(mode="json") for item in items], "next_cursor": None}


def problem(status: int, detail: str, *errors: tuple[str, str]) -> httpx.Response:
    """Return an error response in the backend's form."""
    content = {
        "title": "refused",
        "status": status,
        "detail": detail,
        "errors": [{"path": path, "message": message} for path, message in errors],
    }
    return httpx.Response(status, json=content, headers={"Content-Type": "application/problem+json"})


def text(content: str) -> httpx.Response:
    """Return a plain-text response."""
    return httpx.Response(200, text=content)


class FakeBackend:
    """Replies by method and path, with 404 for all others, and records every request."""

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.answers: dict[str, Any] = dict(answers or {})
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.get(f"{request.method} {request.url.path}")
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            return problem(404, f"there is no {request.url.path}")
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, httpx.Response):
            return answer
        body = answer if isinstance(answer, dict) else answer.model_dump(mode="json")
        return httpx.Response(200, json=body)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)

    def sent(self, index: int = -1) -> Any:
        """Return the JSON body of a request."""
        return json.loads(self.requests[index].content)


class FakeServer:
    """A FakeBackend behind a real port on the loopback address, for code that makes its own client."""

    def __init__(self, backend: FakeBackend) -> None:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                url = f"http://{self.headers['Host']}{self.path}"
                request = httpx.Request(self.command, url, headers=dict(self.headers), content=self.rfile.read(length))
                response = backend(request)
                self.send_response(response.status_code)
                self.send_header("Content-Type", response.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(response.content)))
                for name, value in response.headers.items():
                    if not name.lower().startswith(("content-", "transfer-")):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(response.content)

            do_GET = answer  # noqa: N815 (http.server names it)
            do_POST = answer  # noqa: N815
            do_DELETE = answer  # noqa: N815
            do_PATCH = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
