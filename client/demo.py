"""``python -m client.demo``: a whole comparison on real images, from nothing to a result table.

Starts an embedded stack of its own, submits ``examples/digits.yaml`` through the public API, shows the progress and the
result, and leaves everything running until Ctrl-C. With ``DEMO_EXIT=1`` in the environment it ends by itself: 0 where
every run succeeded, else 1 with a reason.
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
from client.rendering.tables import console_for, duration
from client.stack import HomeBusyError, Stack, StackError, StackOptions, StopRequested, StopSignals, embedded_plan
from client.stack.services import connect, missing_packages
from common.home import Home
from common.terminal import run_program
from core.protocol.public import Experiment
from core.specs import ExperimentSpec, SpecError, read_experiment

_MOST_HOMES = 100
_MOST_NAMES = 1000


class DemoError(Exception):
    """The demo cannot go on, and says why.

    Attributes:
        lines: details, the most telling last.
    """

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


def main() -> int:
    """The whole of ``python -m client.demo``; returns its exit code."""
    console = console_for()
    exits = os.environ.get("DEMO_EXIT", "") not in ("", "0")
    try:
        with StopSignals() as signals:
            return run(console, signals, ends_by_itself=exits)
    except KeyboardInterrupt:
        return 130


def run(console: Console, signals: StopSignals, *, ends_by_itself: bool) -> int:
    """The demo, with its own stack. Returns the exit code; no process is left."""
    try:
        spec = read_experiment(example())
        if missing := missing_packages(dashboard=True):
            raise DemoError(f"not installed here: pip install 'dkd-lab[{','.join(missing)}]'")
        with start(console, signals) as stack:
            return _with_stack(stack, spec, console, ends_by_itself=ends_by_itself)
    except StopRequested:
        _say(console, "stopped before the end")
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
    """A started stack on the first home that no other demo holds: ``.dkd/demo``, ``.dkd/demo-2`` …"""
    for number in range(1, _MOST_HOMES):
        home = Home(Path.cwd() / ".dkd" / ("demo" if number == 1 else f"demo-{number}"))
        options = StackOptions(home=home)
        stack = Stack(options, embedded_plan(options), signals, lambda text: _say(console, text))
        try:
            _say(console, f"starting the stack in {home.path} …")
            stack.start()
        except HomeBusyError as error:
            _say(console, f"{home.path} is in use by another demo{_address(error)}")
            continue
        except BaseException:
            stack.stop()
            raise
        return stack
    raise DemoError(f"{_MOST_HOMES} demos run in {Path.cwd()} already")


def submit(api: Client, spec: ExperimentSpec) -> Experiment:
    """Submit under the spec's name, or with -2, -3 … behind it where that is taken."""
    for number in range(1, _MOST_NAMES):
        name = spec.name if number == 1 else f"{spec.name}-{number}"
        try:
            return api.submit(spec.model_copy(update={"name": name}))
        except ApiError as error:
            if [item.path for item in error.problem.errors] != ["name"]:
                raise
    raise DemoError(f"{_MOST_NAMES} experiments are named {spec.name} already; remove .dkd")


def example() -> Path:
    """The demo's spec, in the checkout or in the current folder."""
    places = (Path(__file__).resolve().parents[1], Path.cwd())
    found = next((path for place in places if (path := place / "examples" / "digits.yaml").is_file()), None)
    if found is None:
        raise DemoError("examples/digits.yaml is not here: run the demo in a checkout of the repository")
    return found


def _with_stack(stack: Stack, spec: ExperimentSpec, console: Console, *, ends_by_itself: bool) -> int:
    with connect(stack.home, stack.api_url) as api:
        made = submit(api, spec)
        link = stack.dashboard_address(f"compare?experiment={made.id}") if stack.dashboard_url else ""
        count = len(made.runs)
        _say(console, f"submitted {made.name}: {count} runs, {stack.options.slots} at once")
        _say(console, f"API        {stack.api_url}  (documentation: {stack.api_url}/docs)")
        if link:
            _say(console, f"dashboard  {link}")
        begun = time.monotonic()
        seen = api.experiments.watch(made.id, console, tick=stack.check)
        _say(console, f"\ntraining took {duration(time.monotonic() - begun)}\n")
        console.print(render_comparison(api.comparison(made.id)))
        reason = _failure(api, seen)
    if link:
        _say(console, f"\ndashboard  {link}")
    if not ends_by_itself:
        # Also after a failure: the dashboard shows what there is to see of it.
        if reason:
            _say(console, f"\n{reason}")
        _say(console, "everything goes on running until Ctrl-C")
        try:
            stack.wait()
        except StopRequested:
            _say(console, "stopping …")
    if reason:
        raise reason
    return 0


def _failure(api: Client, seen: Snapshot) -> DemoError | None:
    others = [run for run in seen.runs if run.state != "succeeded"]
    if not others:
        return None
    lines: list[str] = []
    with contextlib.suppress(ApiError, BackendUnreachable):
        lines = api.run(others[0].id).log_tail
    first = others[0]
    text = f"{first.label} seed {first.seed} {first.state}: {first.reason or 'no reason given'}"
    return DemoError(f"{len(others)} of {len(seen.runs)} runs did not succeed; {text}", lines)


def _address(error: HomeBusyError) -> str:
    return f", dashboard {error.holder.dashboard_url}" if error.holder and error.holder.dashboard_url else ""


def _say(console: Console, text: str) -> None:
    # soft_wrap: an address must stay in one piece. The terminal may be gone (SIGHUP); stopping goes on without it.
    with contextlib.suppress(OSError):
        console.print(text, soft_wrap=True)


if __name__ == "__main__":
    run_program(main, "demo")
