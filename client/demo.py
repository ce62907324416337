"""``python -m client.demo``: a complete comparison on real images, from starting a stack to the result table.

The demo starts its own embedded stack, submits ``examples/digits.yaml`` through the public API, shows the progress and
the result, and leaves the stack running until Ctrl-C. With ``DEMO_EXIT=1`` in the environment it ends by itself, with
exit code 0 if every run succeeded, else 1 and a reason.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from rich.console import Console

from client.client import Client
from client.errors import ApiError, BackendUnreachable
from client.progress import Snapshot
from client.rendering.comparisons import render_comparison
from client.rendering.tables import console_for
from client.stack import HomeBusyError, Stack, StackError, StackOptions, StackStopRequested, StopSignals, embedded_plan
from client.stack.services import connect, missing_packages
from common.durations import duration_text
from common.home import Home
from common.terminal import run_program
from core.protocol.public import Experiment
from core.specs import ExperimentSpec, SpecError, read_experiment

_MAX_HOMES = 100
_MAX_NAMES = 1000


class DemoError(Exception):
    """The demo cannot continue.

    Attributes:
        lines: Details, the most important last.
    """

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


def main() -> int:
    """Run ``python -m client.demo`` and return its exit code."""
    console = console_for()
    exits = os.environ.get("DEMO_EXIT", "") not in ("", "0")
    try:
        with StopSignals() as signals:
            return run(console, signals, exits_by_itself=exits)
    except KeyboardInterrupt:
        return 130


def run(console: Console, signals: StopSignals, *, exits_by_itself: bool) -> int:
    """Run the demo on its own stack, stop every process, and return the exit code."""
    try:
        spec = read_experiment(example())
        if missing := missing_packages(dashboard=True):
            raise DemoError(f"packages are missing: pip install 'dkd-lab[{','.join(missing)}]'")
        with start(console, signals) as stack:
            return _run_on(stack, spec, console, exits_by_itself=exits_by_itself)
    except StackStopRequested:
        _print(console, "stopped before the end")
        return 130
    except (DemoError, StackError) as error:
        for line in error.lines:
            sys.stderr.write(f"  {line}\n")
        reason = str(error)
    except SpecError as error:
        reason = f"{example()}: {error}"
    except (ApiError, BackendUnreachable, OSError) as error:
        reason = str(error)
    sys.stderr.write(f"demo: {reason}\n")
    return 1


def start(console: Console, signals: StopSignals) -> Stack:
    """Return a started stack on the first home that no other demo uses: ``.dkd/demo``, ``.dkd/demo-2`` …"""
    for number in range(1, _MAX_HOMES):
        home = Home(Path.cwd() / ".dkd" / ("demo" if number == 1 else f"demo-{number}"))
        options = StackOptions(home=home)
        stack = Stack(options, embedded_plan(options), signals, lambda text: _print(console, text))
        try:
            _print(console, f"starting the stack in {home.path} …")
            stack.start()
        except HomeBusyError as error:
            _print(console, f"{home.path} is in use by another demo{_dashboard_of(error)}")
            continue
        except BaseException:
            stack.stop()
            raise
        return stack
    raise DemoError(f"{_MAX_HOMES} demos run in {Path.cwd()} already")


def submit(client: Client, spec: ExperimentSpec) -> Experiment:
    """Submit under the spec's name, or with a suffix -2, -3 … if the name is taken."""
    for number in range(1, _MAX_NAMES):
        name = spec.name if number == 1 else f"{spec.name}-{number}"
        try:
            return client.experiments.create(spec.model_copy(update={"name": name}))
        except ApiError as error:
            if [item.path for item in error.problem.errors] != ["name"]:
                raise
    raise DemoError(f"{_MAX_NAMES} experiments are named {spec.name} already; remove .dkd")


def example() -> Path:
    """Return the path of the demo's spec, in the checkout or in the current folder.

    Raises:
        DemoError: The spec is in neither folder.
    """
    for folder in (Path(__file__).resolve().parents[1], Path.cwd()):
        if (path := folder / "examples" / "digits.yaml").is_file():
            return path
    raise DemoError("examples/digits.yaml was not found: run the demo in a checkout of the repository")


def _run_on(stack: Stack, spec: ExperimentSpec, console: Console, *, exits_by_itself: bool) -> int:
    """Submit the demo's experiment, show its progress and result, and return the exit code."""
    with connect(stack.home, stack.api_url) as client:
        experiment = submit(client, spec)
        link = stack.dashboard_address(f"compare?experiment={experiment.id}") if stack.dashboard_url else ""
        count = len(experiment.runs)
        _print(console, f"submitted {experiment.name}: {count} runs, {stack.options.slots} at the same time")
        _print(console, f"API        {stack.api_url}  (documentation: {stack.api_url}/docs)")
        if link:
            _print(console, f"dashboard  {link}")
        started = time.monotonic()
        snapshot = client.experiments.watch(experiment.id, console, tick=stack.check)
        _print(console, f"\ntraining took {duration_text(time.monotonic() - started)}\n")
        console.print(render_comparison(client.comparisons.get(experiment.id)))
        failure = _failure(client, snapshot)
    if link:
        _print(console, f"\ndashboard  {link}")
    if not exits_by_itself:
        # The stack also keeps running after a failure, which the dashboard shows in detail.
        if failure:
            _print(console, f"\n{failure}")
        _print(console, "everything keeps running until Ctrl-C")
        try:
            stack.wait()
        except StackStopRequested:
            _print(console, "stopping …")
    if failure:
        raise failure
    return 0


def _failure(client: Client, snapshot: Snapshot) -> DemoError | None:
    failed = [run for run in snapshot.runs if run.state != "succeeded"]
    if not failed:
        return None
    first_failed = failed[0]
    lines: list[str] = []
    with contextlib.suppress(ApiError, BackendUnreachable):
        lines = client.runs.get(first_failed.id).log_tail
    run = f"{first_failed.label} seed {first_failed.seed} {first_failed.state}"
    text = f"{run}: {first_failed.reason or 'no reason given'}"
    return DemoError(f"{len(failed)} of {len(snapshot.runs)} runs did not succeed; {text}", lines)


def _dashboard_of(error: HomeBusyError) -> str:
    return f", dashboard {error.holder.dashboard_url}" if error.holder and error.holder.dashboard_url else ""


def _print(console: Console, text: str) -> None:
    # soft_wrap keeps an address in one piece. A closed terminal (SIGHUP) must not prevent stopping the stack.
    with contextlib.suppress(OSError):
        console.print(text, soft_wrap=True)


if __name__ == "__main__":
    run_program(main, "demo")
