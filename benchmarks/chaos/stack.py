"""A whole stack of real processes on private ports: database, broker, backend, workers, and proxies between them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.chaos.liveness import RECORDS
from benchmarks.chaos.nudged_backend import NUDGE_FACTOR
from benchmarks.chaos.proxy import Proxy, ProxyLoop
from benchmarks.chaos.standin import STEP_SECONDS
from benchmarks.chaos.supervised import MARK, ROOT, SupervisedProcess, Supervisor, marked_processes
from client import Client, WorkerClient
from tests import services

Kind = Literal["embedded", "services"]

WORKER_NAME = "node"
"""Name of every worker. Two workers share one home, and two others have a home each."""

REAL_TRAINING_LABEL = "torch"
"""Label of the one worker that also takes real trainings. It is hit less often, since importing torch takes long."""


@dataclass(frozen=True)
class Timing:
    """Durations in seconds, and sizes. A lease is a few times as long as a busy machine may delay a heartbeat."""

    lease: float = 20.0
    heartbeat: float = 1.0
    grace: float = 3.0
    margin: float = 2.0
    step: float = 0.12
    checkpoint: float = 0.5
    slots: int = 2
    ranks: int = 2


@dataclass(frozen=True)
class Worker:
    """A worker and its connections.

    Attributes:
        link: proxy to the backend.
        broker: proxy to Redis; None if the broker is a folder.
    """

    process: SupervisedProcess
    link: Proxy
    broker: Proxy | None


class Stack:
    """The processes of a stack; ``running_stack`` makes one.

    Attributes:
        root: folder of all its files.
        url: address of the backend, without a proxy.
    """

    def __init__(self, kind: Kind, root: Path, timing: Timing, loop: ProxyLoop, database_url: str) -> None:
        self.kind, self.root, self.timing = kind, root, timing
        self.postgres: services.Server | None = None
        self.redis: services.Server | None = None
        self.database_url = database_url
        self.mark = uuid.uuid4().hex
        self.port = services.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.records = root / "records"
        self.broker = root / "broker"
        self.artifacts = root / "artifacts"
        self.logs = root / "logs"
        self.nudges = root / "nudges"
        self.supervisor = Supervisor()
        self.backend: SupervisedProcess
        self.workers: list[Worker] = []
        self._loop = loop
        for folder in (self.records, self.artifacts, self.logs):
            folder.mkdir(parents=True)
        self.nudges.write_text("1")

    def open(self) -> None:
        """Start the backend and make the workers, which ``start_workers`` starts."""
        environment = self._environment()
        subprocess.run([sys.executable, "-m", "backend", "migrate"], cwd=ROOT, env=environment, check=True)
        command = [sys.executable, "-m", "benchmarks.chaos.nudged_backend", "serve", "--port", str(self.port)]
        self.backend = self.supervisor.add(
            SupervisedProcess("backend", command, environment, self.logs / "backend.log")
        )
        self.backend.start()
        self.supervisor.start()
        end = time.monotonic() + 60
        while not self.ready():
            if time.monotonic() > end:
                raise TimeoutError(f"the backend did not start: {self.logs / 'backend.log'}")
            time.sleep(0.1)
        self.workers = [self.make_worker(home) for home in ("home", "home", "other")]
        # One more slot: its trainings spend most of their time importing torch.
        self.workers.append(self.make_worker("third", labels=REAL_TRAINING_LABEL, slots=self.timing.slots + 1))

    def start_workers(self) -> None:
        for worker in self.workers:
            self.supervisor.add(worker.process).start()

    def ready(self) -> bool:
        with contextlib.suppress(OSError), self.client() as client:
            return client.ready()
        return False

    def client(self) -> Client:
        """Return a client of the admin. Raises OSError before the first start of the backend has made the token."""
        return Client(self.url, (self.root / "tokens" / "admin").read_text().strip(), timeout=30.0)

    def worker_client(self) -> WorkerClient:
        return WorkerClient(self.url, (self.root / "tokens" / "worker").read_text().strip())

    def make_worker(self, home: str, labels: str = "", slots: int | None = None) -> Worker:
        """Make another worker of the same name, without starting it."""
        timing = self.timing
        link = Proxy(self._loop, self.port)
        broker = Proxy(self._loop, self.redis.port) if self.redis else None
        training = [sys.executable, "-m", "benchmarks.chaos.standin", "--ranks", str(timing.ranks)]
        (self.root / home).mkdir(exist_ok=True)
        environment = self._environment() | {
            "DKD_API_URL": f"http://127.0.0.1:{link.port}",
            "DKD_HOME": str(self.root / home),
            "DKD_ARTIFACTS": str(self.artifacts),
            "DKD_WORKER_NAME": WORKER_NAME,
            "DKD_SLOTS": str(slots or timing.slots),
            "DKD_DEVICE": "cpu",
            "DKD_LABELS": labels,
            "DKD_THREADS": "1",
            "DKD_CHECKPOINT_SECONDS": str(timing.checkpoint),
            "DKD_GRACE_SECONDS": str(timing.grace),
            "DKD_MARGIN_SECONDS": str(timing.margin),
            "DKD_REPORT_SECONDS": "5",
            "DKD_TRAINING_COMMAND": json.dumps(training),
            RECORDS: str(self.records),
            STEP_SECONDS: str(timing.step),
        }
        if broker is not None:
            environment["DKD_BROKER_URL"] = f"redis://127.0.0.1:{broker.port}/0"
        name = f"worker-{uuid.uuid4().hex[:4]}"
        process = SupervisedProcess(name, [sys.executable, "-m", "worker"], environment, self.logs / f"{name}.log")
        return Worker(process, link, broker)

    def heal(self) -> None:
        """Undo every lasting fault."""
        self.nudges.write_text("1")
        for server in (self.postgres, self.redis):
            if server is not None:
                server.start()
        for worker in self.workers:
            worker.link.set("open")
            if worker.broker is not None:
                worker.broker.set("open")

    def close(self) -> int:
        """Stop the workers, then the backend, and kill the processes that are left.

        Returns:
            The number of processes that were left.
        """
        self.supervisor.close()
        for worker in self.workers:
            worker.process.stop()
        left = len(marked_processes(self.mark)) - (self.backend.pid is not None)
        self.backend.stop()
        for process in marked_processes(self.mark):
            with contextlib.suppress(Exception):
                process.kill()
        return left

    def _environment(self) -> dict[str, str]:
        timing = self.timing
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DKD_", "CHAOS_"))}
        return inherited | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            "DKD_DATABASE_URL": self.database_url,
            "DKD_BROKER_URL": self.redis.url if self.redis else "filesystem://",
            "DKD_BROKER_FOLDER": str(self.broker),
            "DKD_ADMIN_TOKEN_FILE": str(self.root / "tokens" / "admin"),
            "DKD_WORKER_TOKEN_FILE": str(self.root / "tokens" / "worker"),
            "DKD_LEASE_SECONDS": str(timing.lease),
            "DKD_HEARTBEAT_SECONDS": str(timing.heartbeat),
            "DKD_RECONCILE_SECONDS": "1",
            "DKD_RETRY_DELAY_SECONDS": "0.2",
            "DKD_MAX_RETRY_DELAY_SECONDS": "2",
            "DKD_MAX_ATTEMPTS": "1000",  # a run that fails because of too many faults would count as lost
            MARK: self.mark,
            NUDGE_FACTOR: str(self.nudges),
        }


@contextmanager
def running_stack(kind: Kind, root: Path, timing: Timing | None = None) -> Iterator[Stack]:
    """Start a stack, without its workers.

    Raises:
        services.ServiceMissing: PostgreSQL or Redis is not installed.
    """
    with ExitStack() as exits:
        loop = ProxyLoop()
        exits.callback(loop.close)
        postgres = redis = None
        database_url = f"sqlite:///{root / 'dkd.sqlite3'}"
        if kind == "services":
            postgres = exits.enter_context(services.postgres_server())
            redis = exits.enter_context(services.redis_server())
            database_url = postgres.url
        stack = Stack(kind, root, timing or Timing(), loop, database_url)
        stack.postgres, stack.redis = postgres, redis
        exits.callback(stack.close)
        stack.open()
        yield stack
