"""How results look in a terminal: rich tables and sentences, the same for every command and for the demo."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from common.formatting import value_text
from common.terminal import inner, printable
from core.protocol.public import Experiment, ExperimentSummary, Preview, Run, RunSummary, TeacherInfo, Worker

ACCURACY = "test/top1"
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
# Of a pipe or a file, where there is no window to fit into and a cut line would lose what a person greps for.
_WIDE = 240


class SafeConsole(Console):
    """Shows every text printable, so that only rich's own styles and movements reach the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console_for(stream: TextIO | None = None) -> Console:
    """A console on stdout, or on another stream; never cuts lines where the stream is no terminal.

    Plain strings are shown as they are, whatever brackets and colons a name or a reason has; styles are given by Text.
    """
    file = inner(stream or sys.stdout)
    terminal = file.isatty()
    wide = None if terminal or "COLUMNS" in os.environ else _WIDE
    return SafeConsole(file=file, width=wide, highlight=False, markup=False, emoji=False, soft_wrap=False)


def table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """An empty table; columns named in ``numbers`` are aligned to the right."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return made


def state(value: str) -> Text:
    return Text(value, style=_STYLES.get(value, ""))


def duration(seconds: float) -> str:
    """As "8 s", "2 min 05 s" or "3 h 07 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def accuracy(run: RunSummary) -> str:
    """The newest test accuracy, as "95.22 %"; empty before the first epoch has ended."""
    latest = run.latest.get(ACCURACY)
    return value_text(latest.value, "%", 2) if latest else ""


def epochs(run: RunSummary) -> str:
    return f"{min(run.epoch, run.total_epochs):.0f}/{run.total_epochs}" if run.total_epochs else ""


def run_name(run: RunSummary) -> str:
    """How a line names a run: its label and its seed."""
    return f"{run.label} seed {run.seed}"


def runs_table(runs: Iterable[RunSummary], *, with_experiment: bool = True) -> Table:
    columns = ["id", *(["experiment"] if with_experiment else []), "method", "seed", "state", "epoch", "test", "worker"]
    made = table(*columns, "reason", numbers=("seed", "epoch", "test"))
    for run in runs:
        experiment = [run.experiment] if with_experiment else []
        made.add_row(
            run.id,
            *experiment,
            run.label,
            str(run.seed),
            state(run.state),
            epochs(run),
            accuracy(run),
            run.worker,
            _one_line(run.reason, 80),
        )
    return made


def experiments_table(experiments: Iterable[ExperimentSummary]) -> Table:
    made = table("name", "state", "done", "runs", "data set", "methods", "created", "id", numbers=("done", "runs"))
    for item in experiments:
        made.add_row(
            item.name,
            state(item.state),
            f"{item.progress:.0%}",
            str(item.counts.total),
            item.dataset,
            ", ".join(item.methods),
            when(item.created_at),
            item.id,
        )
    return made


def render_experiment(experiment: Experiment) -> RenderableType:
    """An experiment: what it is, how far it is, its runs."""
    counts = ", ".join(f"{count} {name}" for name, count in experiment.counts.model_dump().items() if count)
    teacher = f"{experiment.teacher_model} → " if experiment.teacher_model else ""
    lines = [
        Text.assemble((experiment.name, "bold"), "  ", state(experiment.state), f"  {experiment.progress:.0%}"),
        Text(f"{experiment.dataset}, {teacher}{experiment.student_model}; {counts}"),
        Text(f"id {experiment.id}, created {when(experiment.created_at)}", style="dim"),
        *(Text(f"note: {item.path}: {item.message}", style="yellow") for item in experiment.warnings),
    ]
    return Group(*lines, Text(), runs_table(experiment.runs, with_experiment=False))


def render_run(run: Run) -> RenderableType:
    """A run: what it trains, how far it is, its tries, and how it failed."""
    facts = table("", "")
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
    parts: list[RenderableType] = [Text.assemble((run_name(run), "bold"), "  ", state(run.state)), facts]
    if run.reason:
        parts.insert(1, Text(run.reason, style="red" if run.state == "failed" else ""))
    parts[1:1] = [Text(f"note: {item.message}", style="yellow") for item in run.warnings]
    if run.attempts:
        tries = table("attempt", "worker", "device", "started", "took", "outcome", "reason", numbers=("attempt",))
        for item in run.attempts:
            took = duration((item.ended_at - item.started_at).total_seconds()) if item.ended_at else ""
            tries.add_row(
                str(item.number),
                item.worker,
                item.device,
                when(item.started_at),
                took,
                item.outcome,
                _one_line(item.reason, 80),
            )
        parts += [Text(), tries]
    if run.log_tail:
        parts += [Text("\nlast log lines", style="bold"), Text("\n".join(run.log_tail))]
    return Group(*parts)


def render_workers(workers: Sequence[Worker]) -> RenderableType:
    """The workers, and below them what runs in their slots, how their GPUs are, and what is wrong."""
    made = table(
        "name", "state", "host", "device", "slots", "busy", "heard of", "labels", "version", numbers=("slots", "busy")
    )
    for item in workers:
        made.add_row(
            item.name,
            Text("draining", style="yellow") if item.draining and item.state == "online" else state(item.state),
            item.host,
            item.device,
            str(item.slots),
            str(item.busy or len(item.running)),
            when(item.last_heartbeat),
            ", ".join(item.labels),
            item.version,
        )
    lines = [line for item in workers for line in _worker_lines(item)]
    return Group(made, "", *lines) if lines else made


def _worker_lines(worker: Worker) -> Iterable[RenderableType]:
    name = worker.name
    for run in worker.runs:
        gpus = f", {run.gpus} GPUs" if run.gpus > 1 else ""
        done = f"epoch {run.epoch:.0f}/{run.total_epochs}"
        what = f"{run.experiment}: {run.label} seed {run.seed}"
        yield f"{name}  {run.run_id}  {what}, {run.state}, {done}{gpus}"
    for gpu in worker.gpus:
        parts = [f"{gpu.use:.0f} % busy"] if gpu.use is not None else []
        if gpu.memory_used is not None and gpu.memory_total:
            parts.append(f"{gpu.memory_used / 2**30:.1f} of {gpu.memory_total / 2**30:.1f} GiB")
        if gpu.foreign:
            parts.append(f"{gpu.foreign} process(es) of somebody else")
        yield f"{name}  GPU {gpu.index} {gpu.name}: {', '.join(parts) or 'not measured'}"
    if worker.reserved_for:
        yield f"{name}  keeps GPUs that become free for run {worker.reserved_for}"
    for problem in worker.problems:
        yield Text.assemble(f"{name}  ", (problem, "yellow"))


def teachers_table(teachers: Iterable[TeacherInfo]) -> Table:
    made = table("run", "model", "data set", "seed", "state", "test", "students", numbers=("seed", "test", "students"))
    for item in teachers:
        test = "" if item.top1 is None else value_text(item.top1, "%", 2)
        made.add_row(item.run_id, item.model, item.dataset, str(item.seed), state(item.state), test, str(item.students))
    return made


def render_preview(preview: Preview) -> RenderableType:
    """What a spec would make."""
    made = table("method", "model", "seed", "", numbers=("seed",))
    for item in preview.runs:
        made.add_row(item.label, item.model, str(item.seed), "trained already" if item.shared else "")
    new = sum(not item.shared for item in preview.runs)
    shared = len(preview.runs) - new
    text = f"{new} run(s) to train" + (f", {shared} shared" if shared else "")
    notes = [Text(f"note: {item.path}: {item.message}", style="yellow") for item in preview.warnings]
    teacher = [Text(preview.teacher.sentence)] if preview.teacher else []
    return Group(made, Text(), Text(text), *teacher, *notes)


def catalog_table(kind: str, entries: Iterable[dict[str, Any]]) -> Table:
    """Entries of one part of the catalog, each with its parameters and their defaults."""
    made = table(kind, "what it is", "parameters")
    for entry in entries:
        fields: dict[str, Any] = (entry.get("params") or {}).get("properties") or {}
        params = ", ".join(
            f"{name}={field['default']}" if field.get("default") is not None else name for name, field in fields.items()
        )
        made.add_row(str(entry["name"]), str(entry.get("summary") or entry.get("label") or ""), params)
    return made


def when(time: datetime) -> str:
    """A time on the reader's own clock."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return aware.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _one_line(text: str, limit: int) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
