"""A real backend on a private port, and a stand-in for a worker, which reports metrics without training."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import structlog
import uvicorn

from backend.app import create_app
from backend.db import Database, migrate
from backend.settings import Settings
from backend.tokens import ADMIN_SCOPES, WORKER_SCOPES, add_token
from client import WorkerClient
from core.events import Event, Log, Metrics, Record, Started
from core.protocol.worker import ArtifactRef, Claim, EventBatch, Outcome, Registration
from core.specs import RunSpec
from tests.services import free_port

ADMIN_TOKEN = "admin-token"
WORKER_TOKEN = "worker-token"


@contextmanager
def backend(folder: Path, **changes: object) -> Iterator[str]:
    """Run a backend with all its files in a folder, and yield its address."""
    path = folder / "dkd.sqlite3"
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{path}"
    if path.exists():
        _prepare(path)
    else:
        path.write_bytes(_empty_database())
    defaults: dict[str, object] = {
        "database_url": url,
        "broker_folder": folder / "broker",
        "artifacts": folder / "artifacts",
        "admin_token_file": folder / "tokens" / "admin",
        "worker_token_file": folder / "tokens" / "worker",
        "allowed_hosts": ("127.0.0.1",),
    }
    app = create_app(Settings.model_validate(defaults | changes))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, ws="none", log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    quiet = ExitStack()
    quiet.enter_context(
        structlog.testing.capture_logs()
    )  # its log would be mixed with the output of a command under test
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        app.state.stopping.set()
        server.should_exit = True
        thread.join()
        quiet.close()


@cache
def _empty_database() -> bytes:
    """Return a migrated database with the tokens. It is made once per process, because migrations take a second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dkd.sqlite3")
        _prepare(path)
        return path.read_bytes()


def _prepare(path: Path) -> None:
    """Migrate a database, and add the tokens; all of it is in the one file at the end."""
    database = Database(f"sqlite:///{path}")
    migrate.upgrade(database)
    with database.write() as session:
        add_token(session, ADMIN_TOKEN, "admin", ADMIN_SCOPES)
        add_token(session, WORKER_TOKEN, "worker", WORKER_SCOPES)
    database.dispose()


@contextmanager
def worker(url: str, folder: Path) -> Iterator[None]:
    """Claim every run and let it succeed, until the end of the block."""
    stop = threading.Event()
    thread = threading.Thread(target=_work, args=(url, folder / "artifacts", stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _work(url: str, artifacts: Path, stop: threading.Event) -> None:
    with WorkerClient(url, WORKER_TOKEN) as client:
        client.register(Registration(worker_id="stand-in", name="stand-in", host="here", slots=1, device="cpu"))
        while not stop.is_set():
            claim = client.claim("stand-in")
            if claim is None:
                stop.wait(0.02)
                continue
            _train(client, claim, artifacts)


def _train(client: WorkerClient, claim: Claim, artifacts: Path) -> None:
    spec = RunSpec.model_validate(claim.spec)
    epochs = spec.training.epochs
    best = 80 + random.Random(spec.fingerprint()).random() * 15
    events: list[Event] = [
        Started(
            total_steps=10 * epochs,
            total_epochs=epochs,
            train_size=898,
            test_size=899,
            parameters=1234,
            device="cpu",
            environment={"torch": "stand-in"},
        ),
        Log(message="a stand-in trains nothing"),
    ]
    events += [
        Metrics(
            step=10 * epoch,
            epoch=float(epoch),
            elapsed=float(epoch),
            values={"test/top1": best - 20 / epoch, "train/loss": 1 / epoch},
        )
        for epoch in range(1, epochs + 1)
    ]
    records = [Record(seq=number, time=1000.0 + number, event=event) for number, event in enumerate(events, 1)]
    client.send_events("stand-in", claim.run_id, EventBatch(attempt=claim.attempt, records=records))
    folder = artifacts / claim.folder
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(1000))
    weights = ArtifactRef(path=f"{claim.folder}/weights.safetensors", sha256="a" * 64)
    client.finish("stand-in", claim.run_id, Outcome(attempt=claim.attempt, outcome="succeeded", weights=weights))
