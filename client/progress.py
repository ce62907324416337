"""Following an experiment or a run to its end: one bar for the whole, a line for each run that trains now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from client.client import Client
from client.errors import ApiError, BackendUnreachable
from client.rendering.tables import accuracy, epochs, name_of
from common.durations import duration_text
from common.formatting import share_text
from core.protocol.public import TERMINAL, RunSummary

_SLICE_SECONDS = 0.2
# A backend that is being restarted is back long before; one that stays away is worth an end with a reason.
_PATIENCE_SECONDS = 60.0
_QUIET_LINE_SECONDS = 10.0
_LONELY_SECONDS = 15.0
_SHOWN_RUNS = 8


@dataclass(frozen=True)
class Snapshot:
    """How far something is.

    Attributes:
        name: of the experiment or run.
        share: of all steps done, 0 to 1.
        runs: its runs.
        ended: nothing of it will change any more.
    """

    name: str
    share: float
    runs: list[RunSummary]
    ended: bool


def of_experiment(client: Client, experiment: str) -> Snapshot:
    found = client.experiment(experiment)
    return Snapshot(found.name, found.progress, [*found.runs], found.state != "active")


def of_run(client: Client, run_id: str) -> Snapshot:
    run = client.run(run_id)
    share = run.step / run.total_steps if run.total_steps else 0.0
    return Snapshot(name_of(run), 1.0 if run.state == "succeeded" else share, [run], run.state in TERMINAL)


def watch(
    client: Client,
    look: Callable[[], Snapshot],
    console: Console,
    *,
    tick: Callable[[], None] | None = None,
    interval: float = 1.0,
) -> Snapshot:
    """Show progress until the end, and return what was seen last.

    On a terminal it is a live bar; elsewhere a line is printed when a run ends and every ten seconds between.

    Args:
        look: asks for the newest state.
        tick: called several times a second; what it raises ends the watching.
        interval: seconds between two questions, more where an answer takes long.

    Raises:
        BackendUnreachable: nobody has answered for a minute.
    """
    show = _Live(console) if console.is_terminal else _Lines(console)
    lonely = _Loneliness(client)
    seen: set[str] | None = None
    answered = time.monotonic()
    with show.open():
        while True:
            asked = time.monotonic()
            try:
                now = look()
            except BackendUnreachable as error:
                if asked - answered > _PATIENCE_SECONDS:
                    raise
                show.note(f"waiting for the backend: {error.reason}")
                _pause(interval, tick)
                continue
            except ApiError as error:
                if error.status < 500 or asked - answered > _PATIENCE_SECONDS:
                    raise
                _pause(interval, tick)
                continue
            answered = time.monotonic()
            ended = {run.id for run in now.runs if run.state in TERMINAL}
            # What had ended before the first look is no news.
            for run in now.runs:
                if seen is not None and run.id in ended - seen:
                    show.ended(run)
            seen = ended
            show.update(now)
            if now.ended:
                return now
            if note := lonely.notice(now):
                show.note(note)
            # A large experiment's answer costs the backend more; ask it less often.
            _pause(max(interval, 5 * (answered - asked)), tick)


class _Loneliness:
    """Notices when runs wait and nobody is there to take them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._since = time.monotonic()
        self._told = False

    def notice(self, now: Snapshot) -> str:
        if any(run.state in ("running", "cancelling") for run in now.runs):
            self._since, self._told = time.monotonic(), False
            return ""
        if self._told or time.monotonic() - self._since < _LONELY_SECONDS:
            return ""
        try:
            online = any(worker.state == "online" for worker in self._client.workers().items)
        except (ApiError, BackendUnreachable):
            return ""
        self._told = True
        return "the runs wait for a free worker" if online else "no worker is online: the runs wait for one"


class _Live:
    """A bar that moves in place, with a line for each run that trains."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn("[progress.percentage]{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._live: Live | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        with Live(self._bar, console=self._console, refresh_per_second=4) as self._live:
            yield

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))

    def ended(self, run: RunSummary) -> None:
        self._console.print(ended_line(run))

    def update(self, now: Snapshot) -> None:
        self._bar.update(self._task, completed=now.share, description=done_text(now))
        running = [run for run in now.runs if run.state in ("running", "cancelling")]
        lines = [Text("  " + current_text(run), style="cyan") for run in running[:_SHOWN_RUNS]]
        if len(running) > _SHOWN_RUNS:
            lines.append(Text(f"  and {len(running) - _SHOWN_RUNS} more", style="dim"))
        if self._live:
            self._live.update(Group(self._bar, *lines))


class _Lines:
    """The same for a file or a pipe: whole lines, not too many."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._noted = ""

    @contextmanager
    def open(self) -> Iterator[None]:
        yield

    def note(self, text: str) -> None:
        if text != self._noted:
            self._noted = text
            self._console.print(Text(text))

    def ended(self, run: RunSummary) -> None:
        self._console.print(ended_line(run))

    def update(self, now: Snapshot) -> None:
        if time.monotonic() < self._next and not now.ended:
            return
        self._next = time.monotonic() + _QUIET_LINE_SECONDS
        running = [current_text(run) for run in now.runs if run.state in ("running", "cancelling")]
        self._console.print(Text("  ".join([f"{share_text(now.share):>5}", done_text(now), *running[:_SHOWN_RUNS]])))


def done_text(now: Snapshot) -> str:
    """As "digits: 3/10 runs"; of a single run, its name."""
    if len(now.runs) == 1:
        return now.name
    return f"{now.name}: {sum(run.state in TERMINAL for run in now.runs)}/{len(now.runs)} runs"


def current_text(run: RunSummary) -> str:
    """As "dkd seed 1, epoch 12/30, test 95.22 %"."""
    parts = [name_of(run)]
    # The epochs are known from the spec; that it really trains shows in its steps.
    parts.append(f"epoch {epochs(run)}" if run.total_steps else "starting")
    if test := accuracy(run):
        parts.append(f"test {test}")
    return ", ".join(parts)


def ended_line(run: RunSummary) -> Text:
    """As "✓ dkd seed 1: 95.22 % in 14 s"; of one that failed, its reason."""
    seconds = (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None
    took = f" in {duration_text(seconds)}" if seconds is not None else ""
    if run.state == "succeeded":
        return Text(f"✓ {name_of(run)}: test {accuracy(run) or '–'}{took}", style="green")
    reason = f": {' '.join(run.reason.split())}" if run.reason else ""
    return Text(f"✗ {name_of(run)} {run.state}{reason}", style="red")


def _pause(seconds: float, tick: Callable[[], None] | None) -> None:
    if tick is None:
        time.sleep(seconds)
        return
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        tick()
        time.sleep(min(left, _SLICE_SECONDS))
    tick()
