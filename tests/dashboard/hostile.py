"""A fake backend in which every text from a user or a worker contains markup of a picture, a link and a script."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from core.protocol.artifacts import Upload, UploadList
from core.protocol.public import GpuUse, TeacherInfo, TeacherList, Worker, WorkerList, WorkerRun
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec

OUTSIDE = "evil.example"
TEXT = (
    f"![p](http://{OUTSIDE}/p.png) [l](http://{OUTSIDE}) <img src=http://{OUTSIDE}/i.png onerror=pwned=1> "
    f'<a href="http://{OUTSIDE}">a</a> <b>b</b> https://{OUTSIDE}/x_y www.{OUTSIDE} a@{OUTSIDE} '
    "<script>pwned=1</script> :red[r] :tada: :material/home: $x^2$ `c` ~~s~~ **s** a -> b &lt; </pre></td>"
)
SHORT = f"<b>b</b>![p](//{OUTSIDE}/p)<a href=//{OUTSIDE}>a</a>"
"""Appended to labels, which charts show too."""
_LABELS = frozenset(("label", "methods", "baseline", "cliques", "first", "second", "without"))
_WORDS = """label experiment name reason message worker host device notes tags dataset model method teacher_model
version student_model submitted_by sentence baseline methods log_tail labels problems condition title claim case
target_words weights source teacher student summary description group detail printed reprinted family cost
cliques first second without"""
_SET_BY_OTHERS = frozenset(_WORDS.split())


class HostileBackend(FakeBackend):
    """The responses of ``FakeBackend``, with ``TEXT`` appended to each text that users or workers set."""

    def answer(self, method: str, target: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        path = target.partition("?")[0].removeprefix("/api/v1/")
        reply = {"workers": _workers, "teachers": _teachers, "teachers/uploads": _uploads}.get(path)
        status, content = (200, reply()) if reply else super().answer(method, target, body, headers)
        plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
        return status, _turned(plain, keep=("name", "methods", "dataset", "label") if path == "catalog" else ())


def _turned(value: Any, *, keep: tuple[str, ...] = (), key: str = "") -> Any:
    if isinstance(value, dict):
        if key == "environment":
            return {f"{name} {TEXT}": f"{text} {TEXT}" for name, text in value.items()}
        kept = (*keep, "name") if "step" in value else keep  # the name of a metric
        kept = (*keep, "short") if "memory_used" in value else kept
        return {name: _turned(item, keep=kept, key=name) for name, item in value.items() if name != "preset"}
    if isinstance(value, list):
        return [_turned(item, keep=keep, key=key) for item in value]
    if isinstance(value, str) and key in _SET_BY_OTHERS and key not in keep:
        return f"{value} {SHORT if key in _LABELS or 'short' in keep else TEXT}"
    return value


def _workers() -> WorkerList:
    gpu = GpuUse(index=0, name="H", use=63.0, memory_used=1, memory_total=2, foreign=1)
    run = WorkerRun(
        run_id="run-0001-001", label="dkd", experiment="e", seed=0, state="running", epoch=1.0, total_epochs=2
    )
    one = Worker(
        id="worker-one",
        name="one",
        host="node",
        slots=1,
        device="gpu",
        state="online",
        labels=["h200"],
        running=["run-0001-001"],
        runs=[run],
        busy=1,
        gpus=[gpu],
        problems=["hot"],
        draining=True,
        last_heartbeat=datetime.now(UTC),
        version="1",
    )
    return WorkerList(items=[one, one.model_copy(update={"id": "worker-two", "state": "offline", "runs": []})])


def _teachers() -> TeacherList:
    teacher = TeacherInfo(
        run_id="run-0001-000",
        fingerprint="f",
        model="resnet20",
        dataset="digits",
        seed=0,
        state="failed",
        headline="test/top1",
        students=1,
        experiments=1,
        example="exp-0001",
        weights="upload:x",
        reason="why",
        created_at=datetime.now(UTC),
    )
    return TeacherList(items=[teacher])


def _uploads() -> UploadList:
    upload = Upload(
        sha256="a" * 64, name="w", size=1, tensors=1, parameters=1, submitted_by="x", created_at=datetime.now(UTC)
    )
    return UploadList(items=[upload], max_bytes=1 << 30)


def hostile_server() -> FakeServer:
    """Return a server with a finished experiment, and one with a running and a failed run."""
    backend = HostileBackend()
    for name in ("first", "second"):
        backend.submit(digits_spec(name=name, notes="n", tags=["t"], training={"epochs": 3}))
    backend.advance("run-0001-000", 3)
    for run in [item for item in backend.runs.values() if item.experiment_id == "exp-0001"][1:]:
        backend.advance(run.id, 3)
    backend.advance("run-0002-000", 3)
    backend.advance("run-0002-001", 2)
    backend.advance("run-0002-002", 1)
    backend.end("run-0002-002", "failed", "no memory\n\n# left")
    for run in backend.runs.values():
        for attempt, old in enumerate(run.attempts):
            run.attempts[attempt] = old.model_copy(update={"reason": "r"})
    return FakeServer(backend)
