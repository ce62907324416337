"""A whole stack of real processes on private ports: database, broker, backend, workers, and what is between them."""

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

from benchmarks.chaos.daemons import MARK, ROOT, Daemon, Keeper, marked
from benchmarks.chaos.proxy import Loop, Proxy
from benchmarks.chaos.records import RECORDS
from benchmarks.chaos.served import FACTOR
from benchmarks.chaos.standin import STEP_SECONDS
from client import Client, WorkerClient
from tests import services

Kind = Literal["embedded", "services"]

WORKER_NAME = "node"
"""Of every worker: there are always two on one home, and one on each of two others, with the same name."""

TRAINS = "torch"
"""Label of the one worker that takes real trainings too: importing torch takes so long that it is hit less often."""


@dataclass(frozen=True)
class Terms:
    """How long things take, in seconds. A lease is a few times what a busy machine may hold a heartbeat up."""

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
        link: to the backend.
        broker: to Redis; None on the filesystem.
    """

    daemon: Daemon
    link: Proxy
    broker: Proxy | None


class Stack:
    """Made by ``stack``; everything is running then.

    Attributes:
        root: of all its files.
        url: of the backend, past the proxies.
    """

    def __init__(self, kind: Kind, root: Path, terms: Terms, loop: Loop, database_url: str) -> None:
        self.kind, self.root, self.terms = kind, root, terms
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
        self.keeper = Keeper()
        self.backend: Daemon
        self.workers: list[Worker] = []
        self._loop = loop
        for folder in (self.records, self.artifacts, self.logs):
            folder.mkdir(parents=True)
        self.nudges.write_text("1")

    def open(self) -> None:
        """Start the backend; the workers are made, and started by ``start_workers``."""
        environment = self._environment()
        subprocess.run([sys.executable, "-m", "backend", "migrate"], cwd=ROOT, env=environment, check=True)
        command = [sys.executable, "-m", "benchmarks.chaos.served", "serve", "--port", str(self.port)]
        self.backend = self.keeper.add(Daemon("backend", command, environment, self.logs / "backend.log"))
        self.backend.start()
        self.keeper.start()
        end = time.monotonic() + 60
        while not self.ready():
            if time.monotonic() > end:
                raise TimeoutError(f"the backend did not start: {self.logs / 'backend.log'}")
            time.sleep(0.1)
        self.workers = [self.make_worker(home) for home in ("home", "home", "other")]
        # A slot more: its trainings spend most of their time on importing torch.
        self.workers.append(self.make_worker("third", labels=TRAINS, slots=self.terms.slots + 1))

    def start_workers(self) -> None:
        for worker in self.workers:
            self.keeper.add(worker.daemon).start()

    def ready(self) -> bool:
        with contextlib.suppress(OSError), self.client() as client:
            return client.ready()
        return False

    def client(self) -> Client:
        """As the admin. Raises OSError before the first start of the backend has made the token."""
        return Client(self.url, (self.root / "tokens" / "admin").read_text().strip(), timeout=30.0)

    def worker_client(self) -> WorkerClient:
        return WorkerClient(self.url, (self.root / "tokens" / "worker").read_text().strip())

    def make_worker(self, home: str, labels: str = "", slots: int | None = None) -> Worker:
        """One more worker of the same name; not started."""
        terms = self.terms
        link = Proxy(self._loop, self.port)
        broker = Proxy(self._loop, self.redis.port) if self.redis else None
        training = [sys.executable, "-m", "benchmarks.chaos.standin", "--ranks", str(terms.ranks)]
        (self.root / home).mkdir(exist_ok=True)
        environment = self._environment() | {
            "DKD_API_URL": f"http://127.0.0.1:{link.port}",
            "DKD_HOME": str(self.root / home),
            "DKD_ARTIFACTS": str(self.artifacts),
            "DKD_WORKER_NAME": WORKER_NAME,
            "DKD_SLOTS": str(slots or terms.slots),
            "DKD_DEVICE": "cpu",
            "DKD_LABELS": labels,
            "DKD_THREADS": "1",
            "DKD_CHECKPOINT_SECONDS": str(terms.checkpoint),
            "DKD_GRACE_SECONDS": str(terms.grace),
            "DKD_MARGIN_SECONDS": str(terms.margin),
            "DKD_REPORT_SECONDS": "5",
            "DKD_TRAINING_COMMAND": json.dumps(training),
            RECORDS: str(self.records),
            STEP_SECONDS: str(terms.step),
        }
        if broker is not None:
            environment["DKD_BROKER_URL"] = f"redis://127.0.0.1:{broker.port}/0"
        name = f"worker-{uuid.uuid4().hex[:4]}"
        daemon = Daemon(name, [sys.executable, "-m", "worker"], environment, self.logs / f"{name}.log")
        return Worker(daemon, link, broker)

    def heal(self) -> None:
        """Undo every fault that lasts."""
        self.nudges.write_text("1")
        for server in (self.postgres, self.redis):
            if server is not None:
                server.start()
        for worker in self.workers:
            worker.link.set("open")
            if worker.broker is not None:
                worker.broker.set("open")

    def close(self) -> int:
        """Stop workers, then the backend; returns how many processes of theirs are left. Those are then killed."""
        self.keeper.close()
        for worker in self.workers:
            worker.daemon.stop()
        left = len(marked(self.mark)) - (self.backend.pid is not None)
        self.backend.stop()
        for process in marked(self.mark):
            with contextlib.suppress(Exception):
                process.kill()
        return left

    def _environment(self) -> dict[str, str]:
        terms = self.terms
        own = {name: value for name, value in os.environ.items() if not name.startswith(("DKD_", "CHAOS_"))}
        return own | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            "DKD_DATABASE_URL": self.database_url,
            "DKD_BROKER_URL": self.redis.url if self.redis else "filesystem://",
            "DKD_BROKER_FOLDER": str(self.broker),
            "DKD_ADMIN_TOKEN_FILE": str(self.root / "tokens" / "admin"),
            "DKD_WORKER_TOKEN_FILE": str(self.root / "tokens" / "worker"),
            "DKD_LEASE_SECONDS": str(terms.lease),
            "DKD_HEARTBEAT_SECONDS": str(terms.heartbeat),
            "DKD_RECONCILE_SECONDS": "1",
            "DKD_RETRY_DELAY_SECONDS": "0.2",
            "DKD_MAX_RETRY_DELAY_SECONDS": "2",
            "DKD_MAX_ATTEMPTS": "1000",  # a run that gave up for the faults' sake would be one that was lost
            MARK: self.mark,
            FACTOR: str(self.nudges),
        }


@contextmanager
def stack(kind: Kind, root: Path, terms: Terms | None = None) -> Iterator[Stack]:
    """A running stack without running workers. Raises ``services.ServiceMissing``."""
    with ExitStack() as exits:
        loop = Loop()
        exits.callback(loop.close)
        postgres = redis = None
        database_url = f"sqlite:///{root / 'dkd.sqlite3'}"
        if kind == "services":
            postgres = exits.enter_context(services.postgres_server())
            redis = exits.enter_context(services.redis_server())
            database_url = postgres.url
        made = Stack(kind, root, terms or Terms(), loop, database_url)
        made.postgres, made.redis = postgres, redis
        exits.callback(made.close)
        made.open()
        yield made
