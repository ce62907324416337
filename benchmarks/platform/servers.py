"""Starts MLflow's server and the backend, each as in ordinary use, as processes on a free port of loopback."""

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

from benchmarks.platform.raw_http import Call, Connection, ErrorStatus
from tests.services import free_port

ROOT = Path(__file__).parents[2]
_START_SECONDS = 300
_STOP_SECONDS = 15


@dataclass(frozen=True)
class RunningServer:
    """A server that answers.

    Attributes:
        start_seconds: from the first command to the first answered list of runs, on a new and empty database.
        pid: process of the server.
        token: for all routes but those of workers; None if the server has no tokens.
    """

    url: str
    start_seconds: float
    pid: int
    token: str | None = None
    worker_token: str | None = None

    def connect(self) -> Connection:
        return Connection(self.url, self.token)

    def connect_worker(self) -> Connection:
        return Connection(self.url, self.worker_token)


@contextmanager
def start_mlflow(program: Path, folder: Path) -> Iterator[RunningServer]:
    """Run ``mlflow server`` with its defaults (four processes) on SQLite in a folder."""
    port = free_port()
    command = [str(program), "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--default-artifact-root", f"{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    url = f"http://127.0.0.1:{port}"
    first = Call.post("/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"], "max_results": 1})
    began = time.perf_counter()
    with _process(command, folder, environment) as pid:
        _wait_for_answer(lambda: Connection(url), first)
        yield RunningServer(url, time.perf_counter() - began, pid)


@contextmanager
def start_backend(
    folder: Path, database_url: str | None = None, changes: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Run the backend as ``dkd up`` does: migrate, then serve, with the tokens that it makes.

    Args:
        folder: The home of the backend.
        database_url: A database in place of SQLite in the folder, for example one that has been filled.
        changes: Further settings, by the name of the environment variable.
    """
    port = free_port()
    environment = {"DKD_HOME": str(folder), "DKD_BROKER_URL": "filesystem://", "PYTHONPATH": str(ROOT)}
    environment |= changes or {}
    if database_url:
        environment["DKD_DATABASE_URL"] = database_url
    python = [sys.executable, "-m", "backend"]
    url = f"http://127.0.0.1:{port}"
    tokens = folder / "tokens"
    began = time.perf_counter()
    subprocess.run([*python, "migrate"], env=_environment(environment), cwd=folder, check=True, capture_output=True)
    with _process([*python, "serve", "--host", "127.0.0.1", "--port", str(port)], folder, environment) as pid:
        _wait_for_answer(lambda: Connection(url, _read(tokens / "admin")), Call.get("/api/v1/runs", limit=1))
        seconds = time.perf_counter() - began
        yield RunningServer(url, seconds, pid, _read(tokens / "admin"), _read(tokens / "worker"))


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DKD_", "MLFLOW_"))}
    return {**inherited, **changes}


@contextmanager
def _process(command: Sequence[str], folder: Path, changes: Mapping[str, str]) -> Iterator[int]:
    """Run a server and its children for the duration of the block, and yield the id of its process."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(changes), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_answer(connect: Callable[[], Connection], call: Call) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            connection = connect()
            try:
                connection.send(call)
                return
            finally:
                connection.close()
        except (OSError, ErrorStatus) as error:
            if time.monotonic() > end:
                raise TimeoutError(f"no server answered within {_START_SECONDS} s: {error}") from None
            time.sleep(0.02)
