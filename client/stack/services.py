"""What the embedded stack consists of: the commands, their settings, and how each shows that it is ready."""

from __future__ import annotations

import contextlib
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

_MOST_SLOTS = 4
# They name another database, broker, backend or token than this home's own; inherited, they would split the stack.
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


def cores() -> int:
    """CPU cores that this process may use, a container's quota included."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            usable = min(usable, max(1, int(quota) // int(period)))
    return usable


def default_slots() -> int:
    """A training a core, up to four: small networks gain little from a second thread, and each costs its memory."""
    return min(cores(), _MOST_SLOTS)


@dataclass(frozen=True)
class StackOptions:
    """How a stack is to run.

    Attributes:
        home: its folder.
        port: wished for the backend.
        dashboard_port: wished for the dashboard.
        slots: trainings at once.
        slots_asked: a person has asked for so many; otherwise a machine with GPUs has one on each instead.
        threads: CPU threads of each training.
        dashboard: whether there is one.
    """

    home: Home
    port: int = 8000
    dashboard_port: int = 8501
    slots: int = field(default_factory=default_slots)
    slots_asked: bool = False
    threads: int = 0
    dashboard: bool = True

    @property
    def threads_each(self) -> int:
        """CPU threads of each training: as given, else the cores shared out."""
        return self.threads or max(1, cores() // self.slots)


@dataclass(frozen=True)
class Service:
    """A process of the stack.

    Attributes:
        command: what runs.
        ready: whether it does its work now; asked again and again from its start.
        grace: seconds it is given to stop by itself.
        patience: seconds it is given to become ready.
    """

    name: str
    command: list[str]
    ready: Callable[[], bool]
    grace: float = 10.0
    patience: float = 120.0


@dataclass(frozen=True)
class StackPlan:
    """The services of a stack, made for the ports that were chosen.

    Attributes:
        prepare: commands that run to their end first, by name.
        backend: made for a port.
        worker: made once the backend is ready.
        dashboard: made for a port; None where there is none.
    """

    prepare: Mapping[str, list[str]]
    backend: Callable[[int], Service]
    worker: Callable[[str], Service]
    dashboard: Callable[[int], Service] | None


def environment(options: StackOptions, api_url: str) -> dict[str, str]:
    """Settings of every service, from this process's environment and the stack's own."""
    made = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    made |= {
        "DKD_HOME": str(options.home.path),
        "DKD_BROKER_URL": "filesystem://",
        "DKD_SLOTS" if options.slots_asked else "DKD_CPU_SLOTS": str(options.slots),
        "PYTHONUNBUFFERED": "1",
        # A folder named worker where the person happens to stand must not be taken for ours.
        "PYTHONSAFEPATH": "1",
    }
    if options.threads:  # else the worker shares its cores out, and a small training takes one
        made["DKD_THREADS"] = str(options.threads)
    made["DKD_DASHBOARD_LOGIN"] = dashboard_login()
    if api_url:
        made["DKD_API_URL"] = api_url
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):  # a checkout that may not be installed
        made["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return made


def dashboard_login() -> str:
    """How people come into the stack's dashboard, by ``DKD_DASHBOARD_LOGIN``; else by a one-time address.

    Every account of the machine reaches the port, and the dashboard has the rights of the home's admin.
    """
    return os.environ.get("DKD_DASHBOARD_LOGIN", "").strip().lower() or "address"


def missing_packages(*, dashboard: bool) -> list[str]:
    """Extras of which a package is not installed."""
    wanted = {"serve": ("fastapi", "sqlalchemy", "uvicorn"), "train": ("torch", "celery")}
    if dashboard:
        wanted["dashboard"] = ("streamlit",)
    return [extra for extra, modules in wanted.items() if any(find_spec(module) is None for module in modules)]


def embedded_plan(options: StackOptions) -> StackPlan:
    """The real services."""
    python = sys.executable
    home = options.home
    app = _dashboard_app() if options.dashboard else None

    def backend(port: int) -> Service:
        url = f"http://{LOOPBACK}:{port}"
        command = [python, "-m", "backend", "serve", "--host", LOOPBACK, "--port", str(port)]
        return Service("backend", command, lambda: _is_ours(home, url))

    def worker(url: str) -> Service:
        since = datetime.now(UTC)
        # It gets time to have its trainings write a checkpoint and to hand its runs back.
        return Service("worker", [python, "-m", "worker"], lambda: _has_worker(home, url, since), grace=45.0)

    def dashboard(port: int) -> Service:
        command = [python, "-m", "streamlit", "run", str(app), "--server.port", str(port)]
        command += ["--server.address", LOOPBACK, "--server.headless", "true", "--server.fileWatcherType", "none"]
        command += ["--browser.gatherUsageStats", "false", "--browser.serverAddress", LOOPBACK]
        return Service("dashboard", command, lambda: _answers(f"http://{LOOPBACK}:{port}/_stcore/health"))

    return StackPlan(
        prepare={"migrate": [python, "-m", "backend", "migrate"]},
        backend=backend,
        worker=worker,
        dashboard=dashboard if app else None,
    )


def connect(home: Home, url: str) -> Client:
    """A client of the stack on this home, whatever the environment says."""
    return Client(url, home.admin_token.read_text(encoding="utf-8").strip(), timeout=10.0)


def _is_ours(home: Home, url: str) -> bool:
    """Whether the backend of this home answers, and not another one that has taken the port: ours knows our token."""
    try:
        with connect(home, url) as found:
            return found.ready() and found.workers() is not None
    except (ApiError, BackendUnreachable, ClientSettingsError, OSError):
        return False


def _has_worker(home: Home, url: str, since: datetime) -> bool:
    try:
        with connect(home, url) as found:
            return any(item.state == "online" and item.last_heartbeat >= since for item in found.workers().items)
    except (ApiError, BackendUnreachable, ClientSettingsError, OSError):
        return False


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _dashboard_app() -> Path | None:
    # Found without importing it: that would import all of Streamlit.
    spec = find_spec("dashboard")
    places = spec.submodule_search_locations if spec else None
    return next((app for place in places or () if (app := Path(place) / "app.py").is_file()), None)
