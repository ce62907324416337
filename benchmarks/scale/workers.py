"""Simulated workers: they register, claim, send heartbeats and reports, and finish runs, over HTTP."""

from __future__ import annotations

import heapq
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from benchmarks.platform.raw_http import Call, Connection
from benchmarks.platform.servers import RunningServer
from benchmarks.scale.load import Load, Measurements

_API = "/api/v1/worker"
_STEPS = 100
_IDLE_SECONDS = 1.0


@dataclass
class Attempt:
    """A run that a simulated worker trains."""

    run_id: str
    number: int
    folder: str
    ends: float
    seq: int = 0


@dataclass
class Outcomes:
    """What the workers have been told and have told: (run, attempt), in the order of the replies."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    claimed: list[tuple[str, int]] = field(default_factory=list)
    finished: list[tuple[str, int]] = field(default_factory=list)
    lost: list[tuple[str, int]] = field(default_factory=list)


class Worker:
    """One worker with its slots, in one thread.

    Args:
        number: Its number, from which its id and its random numbers follow.
        slots: Its slots.
        server: The backend that it talks to.
        load: Size and times.
        measured: Receives the times of its requests.
        outcomes: Receives its claims and results.
    """

    def __init__(
        self, number: int, slots: int, server: RunningServer, load: Load, measured: Measurements, outcomes: Outcomes
    ) -> None:
        self._id = str(UUID(int=number + 1))
        self._slots = slots
        self._load = load
        self._measured = measured
        self._outcomes = outcomes
        self._connection: Connection = server.connect_worker()
        self._random = random.Random(number)
        self._attempts: dict[str, Attempt] = {}
        self._due: list[tuple[float, int, str, str]] = []  # time, a number that breaks ties, what, run
        self._numbers = 0

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. What then trains stays leased, for the audit."""
        body = {
            "worker_id": self._id,
            "name": f"worker-{self._id[-4:]}",
            "host": "simulated",
            "slots": self._slots,
            "device": "cpu",
        }
        self._send("register", Call.post(f"{_API}/register", body))
        self._plan(self._random.uniform(0, self._load.heartbeat_seconds), "heartbeat")
        for slot in range(self._slots):
            self._plan(self._random.uniform(0, self._load.run_seconds) if slot else 0.0, "claim")
        while not stop.is_set():
            due, _, what, run_id = self._due[0]
            if stop.wait(max(due - time.monotonic(), 0.0)):
                break
            heapq.heappop(self._due)
            {"heartbeat": self._heartbeat, "claim": self._claim, "report": self._report, "finish": self._finish}[what](
                run_id
            )
        self._connection.close()

    def _plan(self, seconds: float, what: str, run_id: str = "") -> None:
        self._numbers += 1
        heapq.heappush(self._due, (time.monotonic() + seconds, self._numbers, what, run_id))

    def _send(self, kind: str, call: Call) -> Any:
        return self._measured.timed(kind, lambda: self._connection.send_json(call))

    def _heartbeat(self, _: str) -> None:
        self._plan(self._load.heartbeat_seconds, "heartbeat")
        holding = [{"run_id": one.run_id, "attempt": one.number} for one in self._attempts.values()]
        reply = self._send("heartbeat", Call.post(f"{_API}/{self._id}/heartbeat", {"holding": holding}))
        for order in reply["orders"] if reply else ():
            if order["order"] == "lost" and order["run_id"] in self._attempts:
                lost = self._attempts.pop(order["run_id"])
                with self._outcomes.lock:
                    self._outcomes.lost.append((lost.run_id, lost.number))
                self._plan(0.0, "claim")

    def _claim(self, _: str) -> None:
        body = {"key": f"{self._random.getrandbits(128):032x}"}
        reply = self._send("claim", Call.post(f"{_API}/{self._id}/claim", body))
        claim = reply["claim"] if reply else None
        if claim is None:
            self._plan(_IDLE_SECONDS, "claim")
            return
        duration = self._load.run_seconds * self._random.uniform(0.7, 1.3)
        attempt = Attempt(claim["run_id"], claim["attempt"], claim["folder"], time.monotonic() + duration)
        with self._outcomes.lock:
            self._outcomes.claimed.append((attempt.run_id, attempt.number))
        self._attempts[attempt.run_id] = attempt
        self._plan(0.0, "report", attempt.run_id)
        self._plan(duration, "finish", attempt.run_id)

    def _report(self, run_id: str) -> None:
        attempt = self._attempts.get(run_id)
        if attempt is None:
            return
        attempt.seq += 1
        event = _started() if attempt.seq == 1 else _metrics(attempt.seq, self._random)
        record = {"seq": attempt.seq, "time": time.time(), "event": event}
        path = f"{_API}/{self._id}/runs/{run_id}/events"
        if self._send("report", Call.post(path, {"attempt": attempt.number, "records": [record]})) is None:
            attempt.seq -= 1
        self._plan(self._load.report_seconds, "report", run_id)

    def _finish(self, run_id: str) -> None:
        attempt = self._attempts.get(run_id)
        if attempt is None:
            return
        weights = {"path": f"{attempt.folder}/weights.safetensors", "sha256": "a" * 64}
        body = {"attempt": attempt.number, "outcome": "succeeded", "weights": weights}
        call = Call.post(f"{_API}/{self._id}/runs/{run_id}/finish", body)
        if self._measured.timed("finish", lambda: self._connection.send(call)) is None:
            self._plan(_IDLE_SECONDS, "finish", run_id)
            return
        del self._attempts[run_id]
        with self._outcomes.lock:
            self._outcomes.finished.append((attempt.run_id, attempt.number))
        self._plan(0.0, "claim")


def _started() -> dict[str, Any]:
    return {
        "type": "started",
        "total_steps": _STEPS,
        "total_epochs": 10,
        "train_size": 898,
        "test_size": 899,
        "parameters": 1234,
        "device": "cpu",
        "environment": {"torch": "2.14.0"},
    }


def _metrics(step: int, chance: random.Random) -> dict[str, Any]:
    values = {
        "train/loss": chance.random(),
        "train/top1": 100 * chance.random(),
        "test/top1": 100 * chance.random(),
        "test/loss": chance.random(),
        "lr": 0.1,
    }
    return {"type": "metrics", "step": step, "epoch": step / 10, "elapsed": float(step), "values": values}
