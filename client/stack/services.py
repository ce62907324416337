"""The services of the embedded stack: their commands, their settings, and their readiness checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import httpx

from client.client import Client
from client.errors import ApiError, BackendUnreachable, ClientSettingsError
from client.stack.ports import LOOPBACK
from common.home import Home
from common.processors import default_cpu_slots, thread_share

# Variables that may select another database, broker, backend or token than this home's; services do not inherit them.
_NOT_INHERITED = (
    "DKD_API_TOKEN",
    "DKD_API_TOKEN_FILE",
    "DKD_API_URL",
    "DKD_ADMIN_TOKEN_FILE",
    "DKD_ARTIFACTS",
    "DKD_ARTIFACTS_URL",
    "DKD_BROKER_FOLDER",
    "DKD_BROKER_URL",
    "DKD_DATABASE_URL",
    "DKD_HOST",
    "DKD_PORT",
    "DKD_WORKER_TOKEN",
    "DKD_WORKER_TOKEN_FILE",
)


@dataclass(frozen=True)
class StackOptions:
    """Options of a stack.

    Attributes:
        home: Home folder of the stack.
        port: Preferred port of the backend.
        dashboard_port: Preferred port of the dashboard.
        slots: Trainings at the same time.
        explicit_slots: Whether a person has chosen ``slots``; if not, a machine with GPUs has one slot per GPU.
        threads: CPU threads of each training; 0 for the default.
        dashboard: Whether a dashboard is started.
    """

    home: Home
    port: int = 8000
    dashboard_port: int = 8501
    slots: int = field(default_factory=default_cpu_slots)
    explicit_slots: bool = False
    threads: int = 0
    dashboard: bool = True

    @property
    def threads_each(self) -> int:
        """CPU threads of each training: ``threads``, else its share of the cores."""
        return self.threads or thread_share(self.slots)


@dataclass(frozen=True)
class Service:
    """A process of the stack.

    Attributes:
        name: Name in messages and of the log file.
        command: The command line.
        ready: Returns whether the service works now; called repeatedly after its start.
        stop_seconds: Time that the service has to stop before it is killed.
        start_seconds: Time that the service has to become ready.
    """

    name: str
    command: list[str]
    ready: Callable[[], bool]
    stop_seconds: float = 10.0
    start_seconds: float = 120.0


@dataclass(frozen=True)
class StackPlan:
    """The services of a stack, as functions of ports and addresses that are known only while the stack starts.

    Attributes:
        prepare: Commands by name, which run to their end before the services start.
        backend: Returns the backend for a port.
        worker: Returns the worker for the backend's address.
        dashboard: Returns the dashboard for a port; None without a dashboard.
    """

    prepare: Mapping[str, list[str]]
    backend: Callable[[int], Service]
    worker: Callable[[str], Service]
    dashboard: Callable[[int], Service] | None


def environment(options: StackOptions, api_url: str) -> dict[str, str]:
    """Return the environment of every service: this process's environment with the stack's settings."""
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    variables |= {
        "DKD_HOME": str(options.home.path),
        "DKD_BROKER_URL": "filesystem://",
        "DKD_SLOTS" if options.explicit_slots else "DKD_CPU_SLOTS": str(options.slots),
        "PYTHONUNBUFFERED": "1",
        # A folder named worker in the current folder must not be imported in place of the package.
        "PYTHONSAFEPATH": "1",
    }
    if options.threads:  # otherwise the worker divides its cores, and a small training uses one
        variables["DKD_THREADS"] = str(options.threads)
    variables["DKD_DASHBOARD_LOGIN"] = dashboard_login()
    if api_url:
        variables["DKD_API_URL"] = api_url
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):  # a checkout that may not be installed
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return variables


def dashboard_login() -> str:
    """Return the kind of login of the stack's dashboard: ``DKD_DASHBOARD_LOGIN``, else "address", a one-time address.

    A login is needed because every account of the machine can reach the port, and the dashboard has the rights of the
    home's admin token.
    """
    return os.environ.get("DKD_DASHBOARD_LOGIN", "").strip().lower() or "address"


def missing_packages(*, dashboard: bool) -> list[str]:
    """Return the extras that the stack needs and that are not completely installed."""
    required = {"serve": ("fastapi", "sqlalchemy", "uvicorn"), "train": ("torch", "celery")}
    if dashboard:
        required["dashboard"] = ("streamlit",)
    return [extra for extra, modules in required.items() if any(find_spec(module) is None for module in modules)]


def embedded_plan(options: StackOptions) -> StackPlan:
    """Return the plan of the embedded stack; tests use plans with other services."""
    python = sys.executable
    home = options.home
    dashboard_script = _dashboard_script() if options.dashboard else None

    def backend(port: int) -> Service:
        url = f"http://{LOOPBACK}:{port}"
        command = [python, "-m", "backend", "serve", "--host", LOOPBACK, "--port", str(port)]
        return Service("backend", command, lambda: _is_backend_of(home, url))

    def worker(url: str) -> Service:
        since = datetime.now(UTC)
        # The worker needs longer to stop: its trainings write a checkpoint, and it returns its runs to the queue.
        command = [python, "-m", "worker"]
        return Service("worker", command, lambda: _has_online_worker(home, url, since), stop_seconds=45.0)

    def dashboard(port: int) -> Service:
        command = [python, "-m", "streamlit", "run", str(dashboard_script), "--server.port", str(port)]
        command += ["--server.address", LOOPBACK, "--server.headless", "true", "--server.fileWatcherType", "none"]
        command += ["--browser.gatherUsageStats", "false", "--browser.serverAddress", LOOPBACK]
        return Service("dashboard", command, lambda: _responds(f"http://{LOOPBACK}:{port}/_stcore/health"))

    return StackPlan(
        prepare={"migrate": [python, "-m", "backend", "migrate"]},
        backend=backend,
        worker=worker,
        dashboard=dashboard if dashboard_script else None,
    )


def connect(home: Home, url: str) -> Client:
    """Return a client of the stack on this home, independent of the environment."""
    return Client(url, home.admin_token.read_text(encoding="utf-8").strip(), timeout=10.0)


def _is_backend_of(home: Home, url: str) -> bool:
    """Return whether the backend of this home is ready. Another backend would not accept the home's token."""
    try:
        with connect(home, url) as client:
            return client.ready() and client.workers.list() is not None
    except (ApiError, BackendUnreachable, ClientSettingsError, OSError):
        return False


def _has_online_worker(home: Home, url: str, since: datetime) -> bool:
    try:
        with connect(home, url) as client:
            workers = client.workers.list().items
            return any(worker.state == "online" and worker.last_heartbeat >= since for worker in workers)
    except (ApiError, BackendUnreachable, ClientSettingsError, OSError):
        return False


def _responds(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _dashboard_script() -> Path | None:
    # Located without importing the package: that would import all of Streamlit.
    package = find_spec("dashboard")
    folders = package.submodule_search_locations if package else None
    return next((script for folder in folders or () if (script := Path(folder) / "app.py").is_file()), None)
