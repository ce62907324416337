"""The embedded stack, with tiny services in real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from client.stack import ports
from client.stack.process import MARK
from client.stack.services import StackOptions, environment
from common.browser_sessions import BrowserSessions
from common.home import Home
from common.processors import processor_count

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")


class Running:
    """A fake stack in a separate process."""

    def __init__(self, home: Path, **behaviour: object) -> None:
        self.home = home
        self.token = f"{home}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.client.fake_stack", str(home), *(f"{k}={v}" for k, v in behaviour.items())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"DKD_TEST_TOKEN": self.token},
            start_new_session=True,
        )
        self.lines: list[str] = []

    def line(self, start: str) -> str:
        """Read its output up to a line that begins with ``start``, and return that line."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(start):
                return self.lines[-1]
        raise AssertionError(f"no line begins with {start!r} in {self.lines}")

    def processes(self) -> list[int]:
        """Return its process and those that it has started."""
        return processes_with("DKD_TEST_TOKEN", self.token)

    def end(self) -> None:
        for pid in {self.process.pid, *self.processes()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def processes_with(variable: str, value: str) -> list[int]:
    entry_of_variable = f"{variable}={value}".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if entry_of_variable in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
    return pids


def eventually(condition: Callable[[], bool]) -> bool:
    """Return whether the condition becomes true within half a minute."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    stacks: list[Running] = []

    def make(name: str = "one", **behaviour: object) -> Running:
        behaviour = {"port": free_port(), "dashboard_port": free_port()} | behaviour
        stacks.append(Running(tmp_path / name, **behaviour))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ports.LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_services(start: Callable[..., Running], number: signal.Signals) -> None:
    stack = start()
    _, api, dashboard = stack.line("ready").split()
    home = Home(stack.home)
    assert home.api_url.read_text().strip() == api
    assert httpx.get(api, trust_env=False).text == f"{stack.home}:backend"
    assert httpx.get(dashboard, trust_env=False).text == f"{stack.home}:dashboard"
    assert "serving" in (home.logs / "backend.log").read_text()
    # The stack, three services, and the worker's child.
    assert len(stack.processes()) == 5
    stack.process.send_signal(number)
    stack.line("stopped")
    assert stack.process.wait() == 0
    assert stack.processes() == []
    assert (stack.home / "handed-back").read_text() == "yes"
    assert not home.api_url.exists()


def test_the_home_is_made_private(start: Callable[..., Running], tmp_path: Path) -> None:
    home = tmp_path / "one"
    (home / "logs").mkdir(parents=True, mode=0o755)
    for name in ("dkd.sqlite3", "logs/old.log", "api.url"):
        (home / name).touch()
        (home / name).chmod(0o644)
    for folder in (home, home / "logs"):  # independent of the umask
        folder.chmod(0o755)
    stack = start()
    assert "5 files and folders" in stack.line("5 files")
    stack.line("ready")
    for path in (home, *home.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_start_ends_the_sessions_of_the_dashboard(start: Callable[..., Running], tmp_path: Path) -> None:
    sessions = BrowserSessions(Home(tmp_path / "one"))
    before = sessions.begin()
    start().line("ready")
    assert not sessions.accepts(before)
    assert sessions.accepts(sessions.begin())


def test_a_killed_parent_leaves_no_process(start: Callable[..., Running]) -> None:
    stack = start()
    stack.line("ready")
    services = [pid for pid in stack.processes() if pid != stack.process.pid]
    child = int((stack.home / "child").read_text())
    assert child in services
    stack.process.kill()
    stack.process.wait()
    # The worker's child must be tied to the worker by the worker itself; the stack ties the three services.
    assert eventually(lambda: set(stack.processes()) <= {child})


def test_the_home_is_free_after_its_stack_was_killed(start: Callable[..., Running]) -> None:
    first = start()
    first.line("ready")
    first.process.kill()
    first.process.wait()
    assert (first.home / "api.url").exists()
    second = start()
    _, api, _ = second.line("ready").split()
    assert (second.home / "api.url").read_text().strip() == api


def test_a_second_stack_on_a_home_is_refused_with_the_first_ones_address(start: Callable[..., Running]) -> None:
    first = start()
    _, api, dashboard = first.line("ready").split()
    second = start()
    message = second.line("error")
    assert api in message
    assert dashboard in message
    assert str(first.process.pid) in message
    assert second.process.wait() == 1
    assert httpx.get(api, trust_env=False).text == f"{first.home}:backend"
    assert (first.home / "api.url").exists()


def test_two_stacks_with_the_same_preferred_ports(start: Callable[..., Running]) -> None:
    both = {"port": free_port(), "dashboard_port": free_port()}
    first = start("one", **both)
    _, api, dashboard = first.line("ready").split()
    assert api.endswith(f":{both['port']}")
    second = start("two", **both)
    _, other_api, other_dashboard = second.line("ready").split()
    assert len({api, dashboard, other_api, other_dashboard}) == 4
    assert httpx.get(other_api, trust_env=False).text == f"{second.home}:backend"
    notes = [line for line in second.lines if "is taken" in line]
    assert len(notes) == 2
    assert str(both["port"]) in notes[0]
    assert other_api.rpartition(":")[2] in notes[0]


def test_a_port_taken_between_check_and_use(start: Callable[..., Running], tmp_path: Path) -> None:
    both = {"port": free_port(), "dashboard_port": free_port()}
    # Both stacks see the port as free; it is taken when the slow one starts to listen.
    slow = start("slow", gate=tmp_path / "gate", **both)
    slow.line("starting")
    assert eventually((slow.home / "logs" / "backend.log").exists)
    quick = start("quick", **both)
    _, api, _ = quick.line("ready").split()
    assert api.endswith(f":{both['port']}")
    (tmp_path / "gate").touch()
    _, other, _ = slow.line("ready").split()
    assert other != api
    assert httpx.get(other, trust_env=False).text == f"{slow.home}:backend"


def test_a_worker_that_cannot_start_stops_the_stack_with_its_output(start: Callable[..., Running]) -> None:
    stack = start(worker="dies")
    message = stack.line("error")
    assert "worker" in message
    assert "exit code 3" in message
    assert "no such module: torch" in message
    assert stack.process.wait() == 1
    assert stack.processes() == []
    assert not (stack.home / "api.url").exists()


def test_a_failed_migration_starts_no_service(start: Callable[..., Running]) -> None:
    stack = start(prepare="fails")
    message = stack.line("error")
    assert "migrate" in message
    assert "newer than this program" in message
    assert stack.process.wait() == 1
    assert stack.processes() == []
    assert not (stack.home / "logs" / "backend.log").exists()


def test_a_crashed_worker_is_restarted(start: Callable[..., Running]) -> None:
    stack = start(worker="crashes")
    stack.line("ready")
    (stack.home / "crash").touch()
    assert eventually(lambda: (stack.home / "lives").read_text() == "...")
    assert "restarted" in stack.line("the worker")
    stack.process.terminate()
    stack.line("stopped")
    assert stack.process.wait() == 0
    assert stack.processes() == []


def test_a_worker_that_does_not_stop_is_killed(start: Callable[..., Running]) -> None:
    stack = start(worker="stubborn")
    stack.line("ready")
    stack.process.send_signal(signal.SIGINT)
    stack.line("stopped")
    assert stack.process.wait() == 0
    assert stack.processes() == []


def test_a_signal_during_the_start_stops_the_stack(start: Callable[..., Running], tmp_path: Path) -> None:
    stack = start(gate=tmp_path / "never")
    stack.line("starting")
    assert eventually((stack.home / "logs" / "backend.log").exists)
    stack.process.send_signal(signal.SIGINT)
    stack.line("stopped")
    assert stack.process.wait() == 0
    assert stack.processes() == []


def test_the_next_free_port_is_chosen() -> None:
    with socket.socket() as other:
        other.bind((ports.LOOPBACK, 0))
        other.listen()
        preferred: int = other.getsockname()[1]
        chosen = ports.choose(preferred)
    assert chosen != preferred
    assert ports.is_free(chosen)
    assert ports.choose(preferred, avoid={preferred}) != preferred


def test_services_get_the_settings_of_this_home_only(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_DATABASE_URL", "postgresql://elsewhere/x")
    monkeypatch.setenv("DKD_API_TOKEN", "of-elsewhere")
    monkeypatch.setenv("DKD_LEASE_SECONDS", "60")
    variables = environment(StackOptions(home=home, slots=2, explicit_slots=True, threads=3), "http://127.0.0.1:5")
    assert "DKD_DATABASE_URL" not in variables
    assert "DKD_API_TOKEN" not in variables
    assert variables["DKD_LEASE_SECONDS"] == "60"
    assert (variables["DKD_HOME"], variables["DKD_API_URL"]) == (str(home.path), "http://127.0.0.1:5")
    assert (variables["DKD_SLOTS"], variables["DKD_THREADS"]) == ("2", "3")
    assert MARK not in variables
    # Without an explicit number of slots, a machine with GPUs has one slot per GPU.
    default = environment(StackOptions(home=home, slots=2), "")
    assert (default["DKD_CPU_SLOTS"], "DKD_SLOTS" in default) == ("2", False)
    assert "DKD_THREADS" not in default, "each training then chooses by its size"


def test_slots_times_threads_do_not_exceed_the_cores(home: Home) -> None:
    options = StackOptions(home=home)
    assert 1 <= options.slots <= processor_count()
    assert options.slots * options.threads_each <= processor_count()
