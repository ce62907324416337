"""Table rows and texts from the backend's replies, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from common.durations import duration_text
from common.formatting import (
    NOTHING,
    convergence_text,
    difference_unit,
    interval_text,
    mean_text,
    memory_text,
    p_text,
    point_text,
    share_text,
    size_text,
    target_text,
)
from core.protocol.artifacts import Upload
from core.protocol.public import (
    TERMINAL,
    AttemptInfo,
    Comparison,
    Experiment,
    ExperimentSummary,
    GpuUse,
    MethodResult,
    PairedDifference,
    Preview,
    RunSummary,
    TeacherInfo,
    Worker,
)
from dashboard.theme import state_text

EXPERIMENT_NAME = r"shown=(.*)&id="
"""Finds in an ``experiment_link`` what its cell shows."""
_NO_BREAK_SPACE = "\u00a0"
"""Space at which a narrow column does not wrap."""


def progress(run: RunSummary) -> float:
    """Return the fraction of the steps that are done, 0 to 1."""
    if run.state == "succeeded":
        return 1.0
    return min(run.step / run.total_steps, 1.0) if run.total_steps else 0.0


def elapsed_seconds(run: RunSummary | AttemptInfo, now: datetime) -> float | None:
    """Return the seconds from start to end, or to now if it has not ended; None before the start."""
    if run.started_at is None:
        return None
    return ((run.ended_at or now) - run.started_at).total_seconds()


def run_title(run: RunSummary) -> str:
    """Return the name of a run in texts."""
    return f"{run.label} · seed {run.seed}"


def latest_headline(run: RunSummary) -> float | None:
    """Return the newest value of the metric by which the run's task is judged; None before the first."""
    newest = run.latest.get(run.headline)
    return newest.value if newest else None


def headline_columns(values: Sequence[tuple[str, float | None]]) -> list[dict[str, float | None]]:
    """Return the cells of one column per headline metric, one row of cells for each value.

    Args:
        values: Title and value of each row's headline metric. Rows of several tasks have different titles.
    """
    titles = dict.fromkeys(title for title, _ in values)
    return [{title: value if title == own else None for title in titles} for own, value in values]


def run_rows(runs: Sequence[RunSummary], now: datetime, headlines: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the table of the Runs page, one row per run, in the order given.

    Args:
        runs: The runs.
        now: The time.
        headlines: Title of each metric by which a run may be judged, with its unit, by name.
    """
    judged = headline_columns([(headlines.get(run.headline, run.headline), latest_headline(run)) for run in runs])
    return [
        {
            "State": state_text(run.state),
            "Method": run.label,
            "Seed": run.seed,
            "Experiment": experiment_link(run.experiment_id, run.experiment),
            "Progress": round(progress(run) * 100),
            **cells,
            "Priority": run.priority,
            "Started": run.started_at,
            # Seconds would redraw the table at every refresh, so a running run shows whole minutes.
            "Duration": duration_text(_whole_minutes(elapsed_seconds(run, now), run.state in TERMINAL)),
            "Model": run.model,
            "Data set": run.dataset,
            "Reason": run.reason,
        }
        for run, cells in zip(runs, judged, strict=True)
    ]


def experiment_link(key: str, name: str) -> str | None:
    """Return the address of an experiment's page for a cell, which shows and sorts by the name; None without a key."""
    return f"experiment?{urlencode({'shown': name, 'id': key})}" if key else None


def experiment_rows(experiments: Iterable[ExperimentSummary]) -> list[dict[str, Any]]:
    """Return the table of experiments, one row each, in the order given."""
    return [
        {
            "State": f"{item.state}, archived" if item.archived_at else item.state,
            "Experiment": experiment_link(item.id, item.name),
            "Progress": round(item.progress * 100),
            "Done": f"{item.counts.succeeded} of {item.counts.total}",
            "Running": item.counts.running + item.counts.cancelling,
            "Waiting": item.counts.waiting + item.counts.queued + item.counts.paused,
            "Failed": item.counts.failed,
            "Tags": item.tags,
            "Data set": item.dataset,
            "Teacher → student": f"{item.teacher_model} → {item.student_model}"
            if item.teacher_model
            else item.student_model,
            "Methods": item.methods,
            "Created": item.created_at,
            "By": item.submitted_by,
            "Notes": item.notes,
        }
        for item in experiments
    ]


def _whole_minutes(seconds: float | None, ended: bool) -> float | None:
    return seconds if seconds is None or ended or seconds < 60 else seconds // 60 * 60


def attempt_rows(attempts: Iterable[AttemptInfo], now: datetime) -> list[dict[str, str]]:
    return [
        {
            "Attempt": str(attempt.number),
            "Worker": attempt.worker,
            "Host": attempt.host,
            "Device": attempt.device or NOTHING,
            "Started (UTC)": timestamp(attempt.started_at),
            "Duration": duration_text(_whole_minutes(elapsed_seconds(attempt, now), attempt.ended_at is not None)),
            "Outcome": attempt.outcome or "running",
            "Reason": attempt.reason or NOTHING,
        }
        for attempt in attempts
    ]


def timestamp(time: datetime | None) -> str:
    """Return date and time to the second; the backend's times are UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else NOTHING


def comparison_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Return the result table, one row per method: mean ± sd, n, epochs to the target, paired difference, p values."""
    paired = {pair.label: pair for pair in comparison.paired}
    unit = f" ({comparison.unit})" if comparison.unit else ""
    points = f" ({difference_unit(comparison.unit)})" if comparison.unit else ""
    target = target_text(
        comparison.target, comparison.target_share, comparison.headline_unit, absolute=comparison.absolute_target
    )
    interval = f"{'Interval over all looks' if comparison.by_looks else '95 % CI'}{points}"
    rows = []
    for group in comparison.groups:
        pair = paired.get(group.label)
        rows.append(
            {
                "Method": group.label,
                f"Mean ± sd{unit}": mean_sd(group),
                "n": str(group.n),
                f"Epochs to {target}": no_break(convergence_text(group.convergence)),
                f"Difference to {comparison.baseline}{points}": difference_cell(group, pair, comparison),
                interval: no_break(interval_text(pair.interval, pair.mean_difference)) if pair else NOTHING,
                "p (uncorrected)": uncorrected_p_text(pair),
                "p (Holm)": p_text(pair.sign_flip_p_holm if pair else None),
            }
        )
    return rows


def no_break(text: str) -> str:
    """Replace spaces by no-break spaces, so that a narrow column does not wrap within a number."""
    return text.replace(" ", _NO_BREAK_SPACE)


def mean_sd(group: MethodResult) -> str:
    return no_break(mean_text(group.mean, group.sd))


def difference_cell(group: MethodResult, pair: PairedDifference | None, comparison: Comparison) -> str:
    if group.label == comparison.baseline:
        return "baseline"
    if pair is None or pair.mean_difference is None:
        return NOTHING
    return point_text(pair.mean_difference, pair.interval)


def uncorrected_p_text(pair: PairedDifference | None) -> str:
    """Return the p value of the exact sign-flip test, with the smallest p value that this number of pairs can give."""
    if pair is None or pair.sign_flip_p is None:
        return NOTHING
    smallest = f" (min. possible {p_text(pair.smallest_p)})" if pair.smallest_p is not None else ""
    return f"{p_text(pair.sign_flip_p)}{smallest}"


def state_rows(experiment: Experiment) -> list[dict[str, str]]:
    """Return the progress of an experiment, one row per method, the teacher first."""
    groups: dict[str, list[RunSummary]] = {}
    for run in experiment.runs:
        groups.setdefault(run.label, []).append(run)
    rows = []
    for label, runs in groups.items():
        counts = {state: sum(run.state == state for run in runs) for state in ("running", "failed", "cancelled")}
        done = sum(run.state == "succeeded" for run in runs)
        not_started = len(runs) - done - sum(counts.values())
        rows.append(
            {
                "Method": label,
                "Done": f"{done} of {len(runs)}".replace(" ", _NO_BREAK_SPACE),
                **{state.capitalize(): str(count or NOTHING) for state, count in counts.items()},
                "Pending": str(not_started or NOTHING),
                "Progress": share_text(sum(map(progress, runs)) / len(runs)),
            }
        )
    return rows


def planned_rows(preview: Preview) -> list[dict[str, str]]:
    """Return the runs that a spec would create, one row per method."""
    counts: dict[tuple[str, str, bool], int] = {}
    for run in preview.runs:
        key = (run.label, run.model, run.shared)
        counts[key] = counts.get(key, 0) + 1
    return [
        {"Method": label, "Model": model, "Runs": "reused" if shared else str(count)}
        for (label, model, shared), count in counts.items()
    ]


def planned_count(preview: Preview) -> int:
    """Return the number of runs that would be trained."""
    return sum(not run.shared for run in preview.runs)


def gpu_rows(gpus: Iterable[GpuUse]) -> list[dict[str, str]]:
    """Return one row per GPU: utilization, memory and the number of other programs' processes."""
    return [
        {
            "GPU": f"{gpu.index} · {gpu.name}" if gpu.name else str(gpu.index),
            "Utilization": NOTHING if gpu.use is None else f"{gpu.use:.0f} %",
            "Memory": memory(gpu),
            "Other processes": str(gpu.foreign),
        }
        for gpu in gpus
    ]


def memory(gpu: GpuUse) -> str:
    if gpu.memory_used is None or gpu.memory_total is None:
        return NOTHING
    return memory_text(gpu.memory_used, gpu.memory_total)


def device_rows(worker: Worker) -> list[dict[str, str]]:
    """Return the devices of a worker: one row per GPU, or one row for a worker without GPUs."""
    slots = f"{worker.busy} of {worker.slots}"
    if not worker.gpus:
        device = "GPUs" if worker.device == "gpu" else "CPU"
        row = {"Worker": worker.name, "Device": device, "Slots in use": slots}
        return [row | {"Utilization": NOTHING, "Memory": NOTHING}]
    return [
        {
            "Worker": worker.name if first else "",
            "Device": f"GPU {gpu.index}" + (f" · {gpu.name}" if gpu.name else ""),
            "Slots in use": slots if first else "",
            "Utilization": NOTHING if gpu.use is None else f"{gpu.use:.0f} %",
            "Memory": memory(gpu),
        }
        for first, gpu in zip([True, *[False] * len(worker.gpus)], worker.gpus, strict=False)
    ]


def teacher_rows(
    teachers: Sequence[TeacherInfo], sources: Mapping[str, str], headlines: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the table of teachers, one row each.

    Args:
        teachers: The teachers.
        sources: Origin of each teacher's weights, by run id.
        headlines: Title of each metric by which a teacher may be judged, with its unit, by name.
    """
    judged = headline_columns([(headlines.get(item.headline, item.headline), item.top1) for item in teachers])
    return [
        {
            "State": state_text(item.state),
            "Model": item.model,
            "Data set": item.dataset,
            "Seed": item.seed,
            **cells,
            "Students (runs)": item.students,
            "Experiments": item.experiments,
            "Weights": sources[item.run_id],
            "Created": item.created_at,
            "Reason": item.reason,
        }
        for item, cells in zip(teachers, judged, strict=True)
    ]


def upload_rows(uploads: Iterable[Upload]) -> list[dict[str, str]]:
    """Return the table of uploaded weights, one row each."""
    return [
        {
            "Name": item.name,
            "Size": size_text(item.size),
            "Tensors": f"{item.tensors:,}",
            "Parameters": f"{item.parameters:,}",
            "By": item.submitted_by,
            "Uploaded (UTC)": timestamp(item.created_at),
            "SHA-256": f"{item.sha256[:12]}…",
        }
        for item in uploads
    ]
