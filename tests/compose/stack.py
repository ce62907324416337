"""Docker Compose as a user runs it: a project of the tests, started from this checkout on private ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from client import Client
from tests.services import free_port
from tests.waiting import until

ROOT = Path(__file__).parents[2]
ONE_SHOT = ("secrets", "migrate")
SERVERS = ("postgres", "redis", "backend", "worker", "dashboard")
APP, WORKER = "dkd-lab-app:test", "dkd-lab-worker:test"


def compose_command() -> list[str]:
    """Return the command of Compose 2, or else of 1.29. Skip the test if both or the engine are missing."""
    if shutil.which("docker") is None:
        pytest.skip("Docker is not installed: apt-get install docker.io docker-compose")
    engine = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if engine.returncode:
        pytest.skip(f"no Docker engine answers: {engine.stderr.strip()[:200]}")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        pytest.skip("Compose is not installed: apt-get install docker-compose")
    return ["docker-compose"]


class Stack:
    """A Compose project with its own settings file.

    Attributes:
        api: Address of the backend on this machine.
        dashboard: Address of the dashboard.
    """

    def __init__(self, folder: Path, project: str) -> None:
        self._command, self._project, self._env = compose_command(), project, folder / "env"
        api, dashboard = free_port(), free_port()
        self.api, self.dashboard = f"http://127.0.0.1:{api}", f"http://127.0.0.1:{dashboard}"
        self._env.write_text("")
        self.set(
            DKD_API_PORT=api,
            DKD_DASHBOARD_PORT=dashboard,
            DKD_APP_IMAGE=APP,
            DKD_WORKER_IMAGE=WORKER,
            DKD_HEARTBEAT_SECONDS=2,
            DKD_LEASE_SECONDS=60,
        )

    def set(self, **values: object) -> None:
        """Add lines to the project's ``.env``."""
        with self._env.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())

    def start(self, *arguments: str, files: Sequence[str] = ("docker-compose.yml",)) -> subprocess.Popen[str]:
        """Start Compose with these arguments, without this process's settings for the services."""
        chosen = [part for file in files for part in ("--file", str(ROOT / file))]
        command = [*self._command, "--project-name", self._project, "--env-file", str(self._env), *chosen, *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DKD_", "COMPOSE_"))}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str, files: Sequence[str] = ("docker-compose.yml",)) -> str:
        """Run Compose and return its output. Fail the test if Compose fails."""
        process = self.start(*arguments, files=files)
        output, _ = process.communicate()
        assert process.returncode == 0, f"compose {' '.join(arguments)}: {output[-4000:]}"
        return output

    def exec(self, service: str, *command: str) -> str:
        """Run a command in a service's container and return its output."""
        return self.run("exec", "-T", service, *command)

    def up(self) -> dict[str, float]:
        """Run ``up -d``; return the seconds until each service was healthy, or had ended if it is one-shot."""
        began = time.monotonic()
        process = self.start("up", "-d")
        seconds: dict[str, float] = {}

        def all_up() -> bool:
            for service, state in self.states().items():
                if service not in seconds and state == ("exited 0" if service in ONE_SHOT else "healthy"):
                    seconds[service] = time.monotonic() - began
            if process.poll():
                pytest.fail(f"compose up: {process.stdout.read() if process.stdout else ''}\n{self.logs()}")
            return set(seconds) == {*ONE_SHOT, *SERVERS} and process.poll() == 0

        try:
            until(all_up, "a healthy stack")
        finally:
            process.kill()
            process.communicate()
        return seconds

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the output of ``docker inspect`` for each service's container."""
        ids = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self._project}").split()
        containers = json.loads(docker("inspect", *ids)) if ids else []
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in containers}

    def states(self) -> dict[str, str]:
        """Return ``healthy``, ``unhealthy``, ``starting``, or ``exited`` with the status, by service."""
        return {
            service: f"exited {item['State']['ExitCode']}"
            if item["State"]["Status"] == "exited"
            else item["State"].get("Health", {}).get("Status", item["State"]["Status"])
            for service, item in self.containers().items()
        }

    def crash(self, service: str) -> float:
        """Kill a service's processes, and return the seconds until it is healthy again by its restart policy."""
        before = self.containers()[service]
        # All processes except the container's first, which ends with them, and those of this command.
        docker("exec", before["Id"], "sh", "-c", "kill -9 -1", check=False)
        began = time.monotonic()

        def again() -> bool:
            now = self.containers()[service]
            return (
                now["RestartCount"] > before["RestartCount"]
                and now["State"].get("Health", {}).get("Status") == "healthy"
                and _moment(now["State"]["StartedAt"]) > _moment(before["State"]["StartedAt"])
            )

        until(again, f"{service} after it was killed")
        return time.monotonic() - began

    def remaining_resources(self) -> list[str]:
        """Return the containers, volumes and networks of the project."""
        chosen = ["--filter", f"label=com.docker.compose.project={self._project}"]
        return [
            *docker("ps", "--all", "--quiet", *chosen).split(),
            *docker("volume", "ls", "--quiet", *chosen).split(),
            *docker("network", "ls", "--quiet", *chosen).split(),
        ]

    def logs(self) -> str:
        """Return the last lines of every service's log."""
        process = self.start("logs", "--no-color", "--tail=40")
        return process.communicate()[0][-12000:]

    def client(self, token: str) -> Client:
        """Return a client on this machine, outside the containers."""
        return Client(self.api, token)


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text[:19])
