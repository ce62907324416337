"""Progress of an experiment or a run on the terminal: one bar for the total, and a line for each running training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from client.errors import ApiError, BackendUnreachable
from client.failures import TOO_MANY_REQUESTS
from client.rendering.tables import epochs, result, result_title, run_name
from common.durations import duration_text
from common.formatting import share_text
from core.protocol.public import TERMINAL, Experiment, Run, RunSummary

_TICK_SECONDS = 0.2
# Longer than a restart of the backend takes. After this time without an answer, watching ends with an error.
_PATIENCE_SECONDS = 60.0
_LINE_INTERVAL_SECONDS = 10.0
_NO_WORKER_NOTICE_SECONDS = 15.0
_MAX_RUNS_SHOWN = 8


@dataclass(frozen=True)
class Snapshot:
    """The progress of an experiment or a run at one time.

    Attributes:
        name: Name of the experiment, or label and seed of the run.
        share: Completed share of the training, 0 to 1.
        runs: The runs of the experiment, or the single run.
        ended: Whether all runs have ended.
    """

    name: str
    share: float
    runs: list[RunSummary]
    ended: bool

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> Snapshot:
        """Return the progress of an experiment."""
        return cls(experiment.name, experiment.progress, [*experiment.runs], experiment.state != "active")

    @classmethod
    def of_run(cls, run: Run) -> Snapshot:
        """Return the progress of a run."""
        share = run.step / run.total_steps if run.total_steps else 0.0
        return cls(run_name(run), 1.0 if run.state == "succeeded" else share, [run], run.state in TERMINAL)


def watch(
    fetch: Callable[[], Snapshot],
    console: Console,
    *,
    any_worker_online: Callable[[], bool],
    tick: Callable[[], None] | None = None,
    interval: float = 1.0,
) -> Snapshot:
    """Show progress until the end and return the last snapshot.

    A terminal shows a live bar; a file or a pipe gets a line when a run ends, and one every ten seconds.

    Args:
        fetch: Returns the newest snapshot.
        console: Where progress is shown.
        any_worker_online: Returns whether at least one worker is online; called if runs have waited for long.
        tick: Called several times a second; if it raises an exception, watching ends.
        interval: Seconds between two snapshots; more if a snapshot takes long.

    Raises:
        BackendUnreachable: No response has come for a minute.
    """
    display = _LiveDisplay(console) if console.is_terminal else _LineDisplay(console)
    no_worker = _NoWorkerNotice(any_worker_online)
    ended_before: set[str] | None = None
    last_reply = time.monotonic()
    with display.open():
        while True:
            requested = time.monotonic()
            try:
                snapshot = fetch()
            except BackendUnreachable as error:
                if requested - last_reply > _PATIENCE_SECONDS:
                    raise
                display.show_note(f"waiting for the backend: {error.reason}")
                _sleep(interval, tick)
                continue
            except ApiError as error:
                temporary = error.status >= 500 or error.status == TOO_MANY_REQUESTS
                if not temporary or requested - last_reply > _PATIENCE_SECONDS:
                    raise
                _sleep(max(interval, error.retry_after), tick)
                continue
            last_reply = time.monotonic()
            ended = {run.id for run in snapshot.runs if run.state in TERMINAL}
            # Runs that had ended before the first snapshot are not reported.
            for run in snapshot.runs:
                if ended_before is not None and run.id in ended - ended_before:
                    display.show_ended(run)
            ended_before = ended
            display.update(snapshot)
            if snapshot.ended:
                return snapshot
            if note := no_worker.check(snapshot):
                display.show_note(note)
            # The snapshot of a large experiment costs the backend more, so it is fetched less often.
            _sleep(max(interval, 5 * (last_reply - requested)), tick)


class _NoWorkerNotice:
    """Decides when to show the notice that runs wait because no worker is free or online."""

    def __init__(self, any_worker_online: Callable[[], bool]) -> None:
        self._any_worker_online = any_worker_online
        self._waiting_since = time.monotonic()
        self._shown = False

    def check(self, snapshot: Snapshot) -> str:
        """Return the notice, once per waiting period; otherwise an empty text."""
        if any(run.state in ("running", "cancelling") for run in snapshot.runs):
            self._waiting_since, self._shown = time.monotonic(), False
            return ""
        if self._shown or time.monotonic() - self._waiting_since < _NO_WORKER_NOTICE_SECONDS:
            return ""
        try:
            online = self._any_worker_online()
        except (ApiError, BackendUnreachable):
            return ""
        self._shown = True
        return "the runs wait for a free worker" if online else "no worker is online: the runs wait for one"


class _LiveDisplay:
    """A progress bar that is updated in place, with a line for each running training."""

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

    def show_note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))

    def show_ended(self, run: RunSummary) -> None:
        self._console.print(ended_text(run))

    def update(self, snapshot: Snapshot) -> None:
        self._bar.update(self._task, completed=snapshot.share, description=done_text(snapshot))
        running = [run for run in snapshot.runs if run.state in ("running", "cancelling")]
        lines = [Text("  " + running_text(run), style="cyan") for run in running[:_MAX_RUNS_SHOWN]]
        if len(running) > _MAX_RUNS_SHOWN:
            lines.append(Text(f"  and {len(running) - _MAX_RUNS_SHOWN} more", style="dim"))
        if self._live:
            self._live.update(Group(self._bar, *lines))


class _LineDisplay:
    """Complete lines for a file or a pipe, at intervals."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line = 0.0
        self._last_note = ""

    @contextmanager
    def open(self) -> Iterator[None]:
        yield

    def show_note(self, text: str) -> None:
        if text != self._last_note:
            self._last_note = text
            self._console.print(Text(text))

    def show_ended(self, run: RunSummary) -> None:
        self._console.print(ended_text(run))

    def update(self, snapshot: Snapshot) -> None:
        if time.monotonic() < self._next_line and not snapshot.ended:
            return
        self._next_line = time.monotonic() + _LINE_INTERVAL_SECONDS
        running = [running_text(run) for run in snapshot.runs if run.state in ("running", "cancelling")]
        line = "  ".join([f"{share_text(snapshot.share):>5}", done_text(snapshot), *running[:_MAX_RUNS_SHOWN]])
        self._console.print(Text(line))


def done_text(snapshot: Snapshot) -> str:
    """Return a text such as "digits: 3/10 runs"; for a single run, its name."""
    if len(snapshot.runs) == 1:
        return snapshot.name
    ended = sum(run.state in TERMINAL for run in snapshot.runs)
    return f"{snapshot.name}: {ended}/{len(snapshot.runs)} runs"


def running_text(run: RunSummary) -> str:
    """Return a text such as "dkd seed 1, epoch 12/30, test accuracy 95.22 %"."""
    parts = [run_name(run)]
    # The number of epochs is known from the spec, the number of steps only after the training has started.
    parts.append(f"epoch {epochs(run)}" if run.total_steps else "starting")
    if value := result(run):
        parts.append(f"{result_title([run.headline])} {value}")
    return ", ".join(parts)


def ended_text(run: RunSummary) -> Text:
    """Return a text such as "✓ dkd seed 1: test accuracy 95.22 % in 14 s", or the reason if the run did not succeed."""
    seconds = (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None
    took = f" in {duration_text(seconds)}" if seconds is not None else ""
    if run.state == "succeeded":
        return Text(f"✓ {run_name(run)}: {result_title([run.headline])} {result(run) or '–'}{took}", style="green")
    reason = f": {' '.join(run.reason.split())}" if run.reason else ""
    return Text(f"✗ {run_name(run)} {run.state}{reason}", style="red")


def _sleep(seconds: float, tick: Callable[[], None] | None) -> None:
    if tick is None:
        time.sleep(seconds)
        return
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        tick()
        time.sleep(min(remaining, _TICK_SECONDS))
    tick()
