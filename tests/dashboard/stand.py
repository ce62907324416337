"""The real backend, with users and workers simulated by the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.db import Database
from client import Client, WorkerClient
from core.events import Event, Metrics, Record, Started
from core.protocol.public import GpuUse
from core.protocol.worker import ArtifactRef, Claim, EventBatch, Heartbeat, LeaseRenewal, Outcome, Registration
from tests import served

STEPS = 10
"""An epoch."""


@dataclass
class Stand:
    """A running backend, with actions of users and workers.

    Attributes:
        url: Its address.
        folder: Its folder, with the database and the artifacts.
        client: A client of an admin.
        worker: A client of a worker.
        requests: The requests of the dashboard in this process, as "GET /api/v1/runs".
    """

    url: str
    folder: Path
    client: Client
    worker: WorkerClient
    requests: list[str] = field(default_factory=list)

    def submit(self, name: str, **changes: Any) -> str:
        """Submit an experiment without a teacher, with two seeds; return its id."""
        return self.submit_as(self.client, name, **changes)

    @staticmethod
    def submit_as(client: Client, name: str, **changes: Any) -> str:
        """Submit the same with another client."""
        spec = {
            "name": name,
            "dataset": "digits",
            "student": {"model": "small_cnn"},
            "methods": ["ce"],
            "seeds": [0, 1],
            "training": {"epochs": 20},
        }
        return client.submit(spec | changes).id

    def register(self, name: str = "worker-one", **changes: Any) -> None:
        usual = {"worker_id": name, "name": name, "host": "node", "slots": 1, "device": "cpu"}
        self.worker.register(Registration.model_validate(usual | changes))

    def start(self, worker: str = "worker-one", epoch: int = 0, top1: float = 90.0) -> Claim:
        """Let a worker claim a run and train it up to an epoch."""
        claim = self.worker.claim(worker)
        assert claim is not None, "nothing was eligible"
        epochs = claim.spec["training"]["epochs"]
        events: list[Event] = [
            Started(
                total_steps=STEPS * epochs,
                total_epochs=epochs,
                train_size=898,
                test_size=899,
                parameters=1234,
                device="cpu",
                environment={},
            )
        ]
        values = {"test/top1": top1, "train/loss": 0.5}
        if epoch:
            step = STEPS * epoch
            events.append(Metrics(step=step, epoch=float(epoch), elapsed=float(step), values=values))
        records = [Record(seq=number, time=1000.0 + number, event=event) for number, event in enumerate(events, 1)]
        self.worker.send_events(worker, claim.run_id, EventBatch(attempt=claim.attempt, records=records))
        return claim

    def files(self, claim: Claim) -> Path:
        """Return the folder of the files of a claimed run."""
        return self.folder / "artifacts" / claim.folder

    def finish(self, claim: Claim, worker: str = "worker-one") -> None:
        path = self.files(claim) / "weights.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        weights = ArtifactRef(path=f"{claim.folder}/weights.safetensors", sha256="a" * 64)
        outcome = Outcome(attempt=claim.attempt, outcome="succeeded", weights=weights)
        self.worker.finish(worker, claim.run_id, outcome)

    def fail(self, claim: Claim, reason: str, worker: str = "worker-one") -> None:
        self.worker.finish(worker, claim.run_id, Outcome(attempt=claim.attempt, outcome="failed", reason=reason))

    def beat(self, *claims: Claim, worker: str = "worker-one", **more: Any) -> None:
        holding = [LeaseRenewal(run_id=claim.run_id, attempt=claim.attempt) for claim in claims]
        self.worker.heartbeat(worker, Heartbeat(holding=holding, **more))

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open the database, for states that a backend reaches only after hours."""
        opened = Database(f"sqlite:///{self.folder / 'dkd.sqlite3'}")
        try:
            yield opened
        finally:
            opened.dispose()


GPU = GpuUse(index=0, name="NVIDIA H200", use=63.0, memory_used=21_000_000_000, memory_total=150_000_000_000)


@contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    """Run a backend in a folder until the end of the block."""
    with (
        served.backend(folder) as url,
        Client(url, served.ADMIN_TOKEN, timeout=60) as client,
        WorkerClient(url, served.WORKER_TOKEN) as worker,
    ):
        yield Stand(url, folder, client, worker)
