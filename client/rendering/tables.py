"""Tables and sentences for the terminal, which all commands and the demo use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from common.durations import duration_text
from common.formatting import memory_text, share_text, value_text, within_sentence
from common.terminal import inner, printable
from core.catalog import METRICS
from core.protocol.public import Experiment, ExperimentSummary, Preview, Run, RunSummary, TeacherInfo, Worker
from core.protocol.shares import ShareList

_STYLES = {
    "waiting": "dim",
    "queued": "dim",
    "paused": "yellow",
    "running": "cyan",
    "active": "cyan",
    "cancelling": "yellow",
    "succeeded": "green",
    "finished": "green",
    "online": "green",
    "failed": "red",
    "cancelled": "yellow",
    "offline": "red",
}
# Width for a pipe or a file, which have no window: a line that is cut would lose text that a person searches for.
_UNLIMITED_WIDTH = 240


class SafeConsole(Console):
    """A console that escapes control characters in every text, so that only rich's own reach the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console_for(stream: TextIO | None = None) -> Console:
    """Return a console on stdout or on another stream. Lines are not cut if the stream is not a terminal.

    Plain strings are printed literally, even if they contain brackets and colons; styles need a ``Text``.
    """
    file = inner(stream or sys.stdout)
    terminal = file.isatty()
    width = None if terminal or "COLUMNS" in os.environ else _UNLIMITED_WIDTH
    return SafeConsole(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def new_table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return an empty table; the columns named in ``numbers`` are aligned to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table


def state_text(value: str) -> Text:
    """Return a state in its colour."""
    return Text(value, style=_STYLES.get(value, ""))


def result(run: RunSummary) -> str:
    """Return the newest value by which a run is judged, such as "95.22 %"; empty before the end of the first epoch."""
    latest = run.latest.get(run.headline)
    return _result_text(run.headline, latest.value) if latest else ""


def result_title(headlines: Iterable[str]) -> str:
    """Return the title of the metric by which runs are judged, such as "test accuracy"; "result" for several metrics.

    Args:
        headlines: Name of the metric for each run. The title of a plug-in's metric that is not loaded is its name.
    """
    names = {name for name in headlines if name}
    if len(names) != 1:
        return "result"
    (name,) = names
    return within_sentence(METRICS[name].title) if name in METRICS else name


def _result_text(headline: str, value: float) -> str:
    return value_text(value, METRICS[headline].unit if headline in METRICS else "", 2)


def epochs(run: RunSummary) -> str:
    """Return the progress in epochs, such as "12/30"; empty if the number of epochs is unknown."""
    return f"{min(run.epoch, run.total_epochs):.0f}/{run.total_epochs}" if run.total_epochs else ""


def run_name(run: RunSummary) -> str:
    """Return a run's name in a line of text: its label and its seed."""
    return f"{run.label} seed {run.seed}"


def runs_table(runs: Iterable[RunSummary], *, with_experiment: bool = True) -> Table:
    runs = list(runs)
    title = result_title(run.headline for run in runs)
    columns = ["id", *(["experiment"] if with_experiment else []), "method", "seed", "state", "epoch", title, "worker"]
    table = new_table(*columns, "reason", numbers=("seed", "epoch", title))
    for run in runs:
        experiment = [run.experiment] if with_experiment else []
        table.add_row(
            run.id,
            *experiment,
            run.label,
            str(run.seed),
            state_text(run.state),
            epochs(run),
            result(run),
            run.worker,
            _one_line(run.reason, 80),
        )
    return table


def experiments_table(experiments: Iterable[ExperimentSummary]) -> Table:
    table = new_table("name", "state", "done", "runs", "data set", "methods", "created", "id", numbers=("done", "runs"))
    for item in experiments:
        table.add_row(
            item.name,
            state_text(item.state),
            share_text(item.progress),
            str(item.counts.total),
            item.dataset,
            ", ".join(item.methods),
            local_time(item.created_at),
            item.id,
        )
    return table


def render_experiment(experiment: Experiment) -> RenderableType:
    """Return an experiment's settings, its progress and its runs."""
    counts = ", ".join(f"{count} {name}" for name, count in experiment.counts.model_dump().items() if count)
    teacher = f"{experiment.teacher_model} → " if experiment.teacher_model else ""
    lines = [
        Text.assemble(
            (experiment.name, "bold"), "  ", state_text(experiment.state), f"  {share_text(experiment.progress)}"
        ),
        Text(f"{experiment.dataset}, {teacher}{experiment.student_model}; {counts}"),
        Text(f"id {experiment.id}, created {local_time(experiment.created_at)}", style="dim"),
        *(Text(f"note: {item.path}: {item.message}", style="yellow") for item in experiment.warnings),
        *_choice(experiment),
    ]
    return Group(*lines, Text(), runs_table(experiment.runs, with_experiment=False))


def _choice(experiment: Experiment) -> Iterator[Text]:
    """Yield how settings were chosen, or that they will be."""
    if experiment.choice is None:
        if experiment.spec.get("tune"):
            yield Text("The settings of the methods are chosen when all runs of the trials have ended.")
        return
    if experiment.choice.error:
        yield Text(experiment.choice.error, style="red")
    yield from map(Text, experiment.choice.sentences)


def render_run(run: Run) -> RenderableType:
    """Return a run's settings, its progress, its attempts, and the reason if it failed."""
    facts = new_table("", "")
    facts.show_header = False
    rows: list[tuple[str, str]] = [
        ("id", run.id),
        ("experiment", run.experiment),
        ("trains", f"{run.model} by {run.label} on {run.dataset}, seed {run.seed}"),
        ("epoch", epochs(run)),
        ("step", f"{run.step}/{run.total_steps}" if run.total_steps else ""),
        *((name, value_text(value.value)) for name, value in run.latest.items()),
        ("teacher", run.teacher_run_id or ""),
        ("parameters", f"{run.parameters:,}" if run.parameters else ""),
        ("images", f"{run.train_size:,} training, {run.test_size:,} test" if run.train_size else ""),
        ("weights", run.weights),
        ("fingerprint", run.fingerprint),
    ]
    for name, value in rows:
        if value:
            facts.add_row(name, value)
    parts: list[RenderableType] = [Text.assemble((run_name(run), "bold"), "  ", state_text(run.state)), facts]
    if run.reason:
        parts.insert(1, Text(run.reason, style="red" if run.state == "failed" else ""))
    parts[1:1] = [Text(f"note: {item.message}", style="yellow") for item in run.warnings]
    if run.attempts:
        attempts = new_table(
            "attempt", "worker", "device", "started", "took", "outcome", "reason", numbers=("attempt",)
        )
        for item in run.attempts:
            took = duration_text((item.ended_at - item.started_at).total_seconds()) if item.ended_at else ""
            attempts.add_row(
                str(item.number),
                item.worker,
                item.device,
                local_time(item.started_at),
                took,
                item.outcome,
                _one_line(item.reason, 80),
            )
        parts += [Text(), attempts]
    if run.log_tail:
        parts += [Text("\nlast log lines", style="bold"), Text("\n".join(run.log_tail))]
    return Group(*parts)


def render_workers(workers: Sequence[Worker]) -> RenderableType:
    """Return the workers, and below them their runs, the state of their GPUs, and their problems."""
    table = new_table(
        "name",
        "state",
        "host",
        "device",
        "slots",
        "busy",
        "last heartbeat",
        "labels",
        "version",
        numbers=("slots", "busy"),
    )
    for item in workers:
        table.add_row(
            item.name,
            Text("draining", style="yellow") if item.draining and item.state == "online" else state_text(item.state),
            item.host,
            item.device,
            str(item.slots),
            str(item.busy or len(item.running)),
            local_time(item.last_heartbeat),
            ", ".join(item.labels),
            item.version,
        )
    lines = [line for item in workers for line in _worker_lines(item)]
    return Group(table, "", *lines) if lines else table


def _worker_lines(worker: Worker) -> Iterable[RenderableType]:
    name = worker.name
    for run in worker.runs:
        gpus = f", {run.gpus} GPUs" if run.gpus > 1 else ""
        progress = f"epoch {run.epoch:.0f}/{run.total_epochs}"
        title = f"{run.experiment}: {run.label} seed {run.seed}"
        yield f"{name}  {run.run_id}  {title}, {run.state}, {progress}{gpus}"
    for gpu in worker.gpus:
        parts = [f"{gpu.use:.0f} % busy"] if gpu.use is not None else []
        if gpu.memory_used is not None and gpu.memory_total:
            parts.append(memory_text(gpu.memory_used, gpu.memory_total))
        if gpu.foreign:
            parts.append(f"{gpu.foreign} process(es) of other programs")
        yield f"{name}  GPU {gpu.index} {gpu.name}: {', '.join(parts) or 'not measured'}"
    if worker.reserved_for:
        yield f"{name}  reserves GPUs that become free for run {worker.reserved_for}"
    for problem in worker.problems:
        yield Text.assemble(f"{name}  ", (problem, "yellow"))


def shares_table(shares: ShareList) -> Table:
    """Return who shares the queue, with the time that each has used."""
    used = f"used in {shares.window_days:g} days"
    numbers = ("weight", used, "running", "queued")
    table = new_table("turn", "owner", *numbers, numbers=numbers)
    for item in shares.items:
        turn = "" if item.turn is None else str(item.turn)
        time = duration_text(item.used_seconds)
        table.add_row(turn, item.owner or "(unnamed)", f"{item.weight:g}", time, str(item.running), str(item.queued))
    return table


def teachers_table(teachers: Iterable[TeacherInfo]) -> Table:
    teachers = list(teachers)
    title = result_title(item.headline for item in teachers)
    table = new_table(
        "run", "model", "data set", "seed", "state", title, "students", numbers=("seed", title, "students")
    )
    for item in teachers:
        test = "" if item.top1 is None else _result_text(item.headline, item.top1)
        table.add_row(
            item.run_id, item.model, item.dataset, str(item.seed), state_text(item.state), test, str(item.students)
        )
    return table


def render_preview(preview: Preview) -> RenderableType:
    """Return the runs that a spec would create, its teachers, and warnings."""
    table = new_table("method", "model", "seed", "", numbers=("seed",))
    for item in preview.runs:
        table.add_row(item.label, item.model, str(item.seed), "already trained" if item.shared else "")
    new_count = sum(not item.shared for item in preview.runs)
    shared_count = len(preview.runs) - new_count
    text = f"{new_count} run(s) to train" + (f", {shared_count} shared" if shared_count else "")
    notes = [Text(f"note: {item.path}: {item.message}", style="yellow") for item in preview.warnings]
    teachers = [Text(sentence) for sentence in preview.teacher_sentences]
    return Group(table, Text(), Text(text), *teachers, *notes)


def catalog_table(kind: str, entries: Iterable[dict[str, Any]]) -> Table:
    """Return the entries of one part of the catalog, with their parameters and defaults."""
    table = new_table(kind, "description", "parameters")
    for entry in entries:
        fields: dict[str, Any] = (entry.get("params") or {}).get("properties") or {}
        params = ", ".join(
            f"{name}={field['default']}" if field.get("default") is not None else name for name, field in fields.items()
        )
        table.add_row(str(entry["name"]), str(entry.get("summary") or entry.get("label") or ""), params)
    return table


def local_time(time: datetime) -> str:
    """Return a time in the local time zone."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return aware.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _one_line(text: str, limit: int) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
