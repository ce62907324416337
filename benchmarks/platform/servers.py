"""Both servers as they are meant to be run, each as processes of its own on a port of loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.platform.wire import Call, Connection, Refused
from tests.services import free_port

ROOT = Path(__file__).parents[2]
_PATIENCE = 300
_GRACE = 15


@dataclass(frozen=True)
class Started:
    """A server that answers.

    Attributes:
        seconds: from the first command to the first answered list of runs, on a new and empty database.
        token: for everything but a worker's own routes; None where the server has none.
    """

    url: str
    seconds: float
    token: str | None = None
    worker_token: str | None = None

    def connect(self) -> Connection:
        return Connection(self.url, self.token)

    def connect_worker(self) -> Connection:
        return Connection(self.url, self.worker_token)


@contextmanager
def mlflow(program: Path, folder: Path) -> Iterator[Started]:
    """``mlflow server`` with its defaults (four processes), on SQLite in the folder."""
    port = free_port()
    command = [str(program), "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--default-artifact-root", f"{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    url = f"http://127.0.0.1:{port}"
    first = Call.post("/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"], "max_results": 1})
    began = time.perf_counter()
    with _process(command, folder, environment):
        _until_answered(lambda: Connection(url), first)
        yield Started(url, time.perf_counter() - began)


@contextmanager
def ours(folder: Path, database_url: str | None = None) -> Iterator[Started]:
    """The backend as ``dkd up`` starts it: migrate, then serve; tokens made by itself.

    Args:
        database_url: another database than SQLite in the folder, as one that has been filled.
    """
    port = free_port()
    environment = {"DKD_HOME": str(folder), "DKD_BROKER_URL": "filesystem://", "PYTHONPATH": str(ROOT)}
    if database_url:
        environment["DKD_DATABASE_URL"] = database_url
    python = [sys.executable, "-m", "backend"]
    url = f"http://127.0.0.1:{port}"
    tokens = folder / "tokens"
    began = time.perf_counter()
    subprocess.run([*python, "migrate"], env=_environment(environment), cwd=folder, check=True, capture_output=True)
    with _process([*python, "serve", "--host", "127.0.0.1", "--port", str(port)], folder, environment):
        _until_answered(lambda: Connection(url, _read(tokens / "admin")), Call.get("/api/v1/runs", limit=1))
        seconds = time.perf_counter() - began
        yield Started(url, seconds, _read(tokens / "admin"), _read(tokens / "worker"))


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DKD_", "MLFLOW_"))}
    return {**inherited, **changes}


@contextmanager
def _process(command: Sequence[str], folder: Path, changes: Mapping[str, str]) -> Iterator[None]:
    """A server and all its children, ended with the block."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(changes), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until_answered(connect: Callable[[], Connection], call: Call) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            connection = connect()
            try:
                connection.send(call)
                return
            finally:
                connection.close()
        except (OSError, Refused) as error:
            if time.monotonic() > end:
                raise TimeoutError(f"no server answered within {_PATIENCE} s: {error}") from None
            time.sleep(0.02)
