"""Rows of tables and the words in them, from the backend's answers: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from core.wire.public import (
    TERMINAL,
    Attempt,
    Comparison,
    Convergence,
    Experiment,
    Group,
    Interval,
    Paired,
    Preview,
    RunSummary,
)
from dashboard.theme import state_text

NOTHING = "–"
_GLUE = "\u00a0"
"""A space at which a narrow column does not break a number."""


def duration(seconds: float | None) -> str:
    """As a person says it: ``42 s``, ``3 min 05 s``, ``2 h 10 min``, ``4 d 03 h``."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def percent(value: float | None, digits: int = 2) -> str:
    """``97.33 %``; a dash where nothing is known, the word where the value is not finite."""
    if value is None:
        return NOTHING
    return f"{value:.{digits}f} %" if math.isfinite(value) else "not a number"


def counted(number: int, noun: str) -> str:
    """``1 run``, ``3 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def signed(value: float, digits: int = 2) -> str:
    """With its sign, a true minus for a negative one."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def interval(bounds: Interval | None, digits: int = 2) -> str:
    return f"[{signed(bounds.low, digits)},{_GLUE}{signed(bounds.high, digits)}]" if bounds else NOTHING


def progress(run: RunSummary) -> float:
    """Share of the steps done, 0 to 1."""
    if run.state == "succeeded":
        return 1.0
    return min(run.step / run.total_steps, 1.0) if run.total_steps else 0.0


def seconds_of(run: RunSummary | Attempt, now: datetime) -> float | None:
    """From start to end, or to now where it has not ended; None before it has started."""
    if run.started_at is None:
        return None
    return ((run.ended_at or now) - run.started_at).total_seconds()


def run_title(run: RunSummary) -> str:
    """How a run is called in a sentence."""
    return f"{run.label} · seed {run.seed}"


def latest_accuracy(run: RunSummary) -> float | None:
    """Newest test accuracy, %; None before the first."""
    newest = run.latest.get("test/top1")
    return newest.value if newest else None


def run_rows(runs: Iterable[RunSummary], now: datetime) -> list[dict[str, Any]]:
    """The Runs page's table, a row a run, in the order given."""
    return [
        {
            "State": state_text(run.state),
            "Method": run.label,
            "Seed": run.seed,
            "Progress": round(progress(run) * 100),
            "Test accuracy (%)": latest_accuracy(run),
            "Started": run.started_at,
            # A clock that ticks would redraw the table at every poll, so a run that goes on shows whole minutes.
            "Duration": duration(_settled(seconds_of(run, now), run.state in TERMINAL)),
            "Experiment": run.experiment,
            "Model": run.model,
            "Dataset": run.dataset,
            "Reason": run.reason,
        }
        for run in runs
    ]


def _settled(seconds: float | None, ended: bool) -> float | None:
    return seconds if seconds is None or ended or seconds < 60 else seconds // 60 * 60


def keep_order(shown: Sequence[str], runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs in the order in which they are shown already, without those that have come since.

    Streamlit names selected rows by position: while some are selected, no row may move under the person's hand.
    """
    by_id = {run.id: run for run in runs}
    return [by_id[run_id] for run_id in shown if run_id in by_id]


def attempt_rows(attempts: Iterable[Attempt], now: datetime) -> list[dict[str, str]]:
    return [
        {
            "Attempt": str(attempt.number),
            "Worker": attempt.worker,
            "Host": attempt.host,
            "Device": attempt.device or NOTHING,
            "Started (UTC)": moment(attempt.started_at),
            "Duration": duration(_settled(seconds_of(attempt, now), attempt.ended_at is not None)),
            "Outcome": attempt.outcome or "running",
            "Reason": attempt.reason or NOTHING,
        }
        for attempt in attempts
    ]


def moment(time: datetime | None) -> str:
    """Date and time to the second, as given (the backend's times are UTC)."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else NOTHING


def result_rows(comparison: Comparison) -> list[dict[str, str]]:
    """The result table, a row a method: mean ± sd, n, epochs to the target, paired difference with its interval."""
    paired = {pair.label: pair for pair in comparison.paired}
    unit = f" ({comparison.unit})" if comparison.unit else ""
    # Two percentages differ by percentage points, not by per cent.
    apart = " (points)" if comparison.unit == "%" else unit
    share = f"{comparison.target_share:.0%}".replace("%", " %")
    return [
        {
            "Method": group.label,
            f"Mean ± sd{unit}": mean_sd(group),
            "n": str(group.n),
            f"Epochs to {share} of the teacher": epochs_to(group.convergence),
            f"Difference to {comparison.baseline}{apart}": difference(group, paired.get(group.label), comparison),
            f"95 % t interval{apart}": interval(paired[group.label].interval) if group.label in paired else NOTHING,
            "Sign-flip p": sign_flip(paired.get(group.label)),
        }
        for group in comparison.groups
    ]


def mean_sd(group: Group) -> str:
    if group.mean is None:
        return NOTHING
    return f"{group.mean:.2f}{_GLUE}±{_GLUE}{group.sd:.2f}" if group.sd is not None else f"{group.mean:.2f}"


def epochs_to(convergence: Convergence | None) -> str:
    """The median with how many runs reached it: ``12 (3 of 3)``, or ``> 30 (1 of 3)``."""
    if convergence is None or convergence.of == 0:
        return NOTHING
    median = convergence.median_epochs
    shown = f"> {convergence.max_epochs}" if median is None else f"{median:g}"
    return f"{shown} ({convergence.reached} of {convergence.of})".replace(" ", _GLUE)


def difference(group: Group, pair: Paired | None, comparison: Comparison) -> str:
    if group.label == comparison.baseline:
        return "baseline"
    if pair is None or pair.mean_difference is None:
        return NOTHING
    return signed(pair.mean_difference)


def sign_flip(pair: Paired | None) -> str:
    """The exact p beside the smallest that so few pairs can give."""
    if pair is None or pair.sign_flip_p is None:
        return NOTHING
    least = f" (least possible {pair.smallest_p:.2g})" if pair.smallest_p is not None else ""
    return f"{pair.sign_flip_p:.2g}{least}"


def state_rows(experiment: Experiment) -> list[dict[str, str]]:
    """How far each method of an experiment is: a row a method, the teacher first."""
    groups: dict[str, list[RunSummary]] = {}
    for run in experiment.runs:
        groups.setdefault(run.label, []).append(run)
    rows = []
    for label, runs in groups.items():
        counts = {state: sum(run.state == state for run in runs) for state in ("running", "failed", "cancelled")}
        done = sum(run.state == "succeeded" for run in runs)
        waits = len(runs) - done - sum(counts.values())
        rows.append(
            {
                "Method": label,
                "Done": f"{done} of {len(runs)}".replace(" ", _GLUE),
                **{state.capitalize(): str(count or NOTHING) for state, count in counts.items()},
                "Still to start": str(waits or NOTHING),
                "Progress": f"{sum(map(progress, runs)) / len(runs):.0%}".replace("%", " %"),
            }
        )
    return rows


def planned_rows(preview: Preview) -> list[dict[str, str]]:
    """What a spec would make: a row a method, with how many runs of it."""
    counts: dict[tuple[str, str, bool], int] = {}
    for run in preview.runs:
        key = (run.label, run.model, run.shared)
        counts[key] = counts.get(key, 0) + 1
    return [
        {"Method": label, "Model": model, "Runs": "exists already" if shared else str(count)}
        for (label, model, shared), count in counts.items()
    ]


def planned_count(preview: Preview) -> int:
    """Runs that would be trained."""
    return sum(not run.shared for run in preview.runs)
