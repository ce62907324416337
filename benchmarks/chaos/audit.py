"""Checks the runs at the end, from the answers of the API, the files, and the records of the trainings."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chaos import digest_chain, liveness
from benchmarks.chaos.claimers import CLAIMED_EXPERIMENT
from benchmarks.chaos.stack import Stack
from benchmarks.chaos.standin import is_standin_run, ranks_of
from benchmarks.chaos.submissions import SubmittedRun, Submitter, retry_until_answered
from client import ApiError, Client
from core.events import JOURNAL_NAME, Event, Log, Metrics, Started, read_journal
from core.protocol.public import Run
from core.specs import RunSpec

Point = tuple[str, int, float]


@dataclass
class Audit:
    """The counts of a check, and the violations, one line each; the lists of violations should be empty.

    Attributes:
        submitted: runs that the backend accepted.
        states: number of runs by final state.
        attempts: attempts of all runs together.
        real: real trainings that finished.
        resumed: stand-in runs with an attempt that continued from a checkpoint.
        expiries: attempts whose lease expired, because of a fault or of a busy machine.
        points: metric points that were checked.
        lost: runs that did not end, ended in a wrong state, or are unknown to the backend.
        twice: runs that were trained twice at the same time.
        points_lost: points that are absent, or have another value; also log lines.
        points_doubled: points that are served twice, or belong to no training; also log lines.
        left: processes that should have ended.
        wrong: other violations: wrong weights of a stand-in run, an experiment made twice.
        trained: digests of the weights of the real trainings that resumed, by run id.
    """

    submitted: int = 0
    states: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    real: int = 0
    resumed: int = 0
    expiries: int = 0
    points: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    points_lost: list[str] = field(default_factory=list)
    points_doubled: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    trained: dict[str, str] = field(default_factory=dict)


def check_runs(stack: Stack, submitter: Submitter) -> Audit:
    """Check everything. The backend must run, and nothing else."""
    audit = Audit(submitted=len(submitter.runs))
    audit.twice = [
        f"run {overlap.run}: attempts {overlap.attempts[0]} and {overlap.attempts[1]} ({overlap.evidence})"
        for overlap in liveness.overlaps(liveness.read_records(stack.records))
    ]
    with stack.client() as client:
        claimed = (
            _succeeded(client, CLAIMED_EXPERIMENT) if CLAIMED_EXPERIMENT in submitter.keys else set()
        )  # the claimers train nothing, so there is no more to check
        audit.states["succeeded"] = audit.attempts = len(claimed)
        for submitted in submitter.runs.values():
            if submitted.run_id not in claimed:
                _check_run(audit, stack, client, submitted)
        names = _experiment_names(client)
    audit.wrong += [f"the experiment {name} was made {count} times" for name, count in names.items() if count > 1]
    audit.lost += [f"the experiment {name} is gone" for name in submitter.keys - set(names)]
    return audit


def _check_run(audit: Audit, stack: Stack, client: Client, submitted: SubmittedRun) -> None:
    try:
        run = retry_until_answered(lambda: client.run(submitted.run_id))
    except ApiError as error:
        audit.lost.append(f"run {submitted.run_id}: {error}")
        return
    audit.states[run.state] = audit.states.get(run.state, 0) + 1
    audit.attempts += run.attempt
    audit.expiries += sum(each.outcome == "lost" and "lease" in each.reason for each in run.attempts)
    expected = {"cancelled", "succeeded"} if submitted.cancelled else {"succeeded"}
    if run.state not in expected and not _orphaned(client, run):
        audit.lost.append(f"run {run.id} ({run.label}) is {run.state} after {run.attempt} attempts: {run.reason}")
    if run.state != "succeeded" or run.experiment == CLAIMED_EXPERIMENT:
        return
    folder = (stack.artifacts / run.weights).parent
    journal = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    resumed = _has_resumed(journal)
    content = (stack.artifacts / run.weights).read_bytes()
    if run.dataset == "synthetic":
        audit.resumed += resumed
        states = _states(stack, client, run)
        if content != digest_chain.weights_content(states[-1]):
            audit.wrong.append(f"run {run.id}: its weights are not those of an undisturbed training")
        expected_points = {
            (name, step, value)
            for step, state in enumerate(states, 1)
            for name, value in digest_chain.metric_values(state).items()
        }
    else:
        audit.real += 1
        if resumed:
            audit.trained[run.id] = hashlib.sha256(content).hexdigest()
        metrics = [event for event in journal if isinstance(event, Metrics)]
        expected_points = {(name, event.step, value) for event in metrics for name, value in event.values.items()}
    _compare_points(audit, client, run, expected_points)
    _compare_logs(audit, client, run, folder / JOURNAL_NAME)


def count_resumed_trainings(artifacts: Path) -> int:
    """Return the number of real trainings that have resumed and finished, counted from their folders alone."""
    run_ids = set()
    for weights in artifacts.glob("runs/*/attempt-*/weights.safetensors"):
        spec = json.loads((weights.parent / "run.json").read_text())
        if not is_standin_run(spec) and _has_resumed(
            record.event for record in read_journal(weights.parent / JOURNAL_NAME)
        ):
            run_ids.add(weights.parents[1].name)
    return len(run_ids)


def _has_resumed(journal: Iterable[Event]) -> bool:
    """Return whether an attempt began at a checkpoint."""
    return any(isinstance(event, Started) and event.start_step > 0 for event in journal)


def _succeeded(client: Client, experiment: str) -> set[str]:
    """Return the ids of the runs of an experiment that have succeeded; none if there is no such experiment."""
    run_ids: set[str] = set()
    cursor = None
    while True:
        page = retry_until_answered(
            lambda cursor=cursor: client.runs(experiment=experiment, state="succeeded", cursor=cursor, limit=200)  # type: ignore[misc]
        )
        run_ids.update(run.id for run in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return run_ids


def _orphaned(client: Client, run: Run) -> bool:
    """Return whether a run failed because a user had cancelled its teacher, as it should."""
    if run.state != "failed" or run.teacher_run_id is None:
        return False
    return retry_until_answered(lambda: client.run(str(run.teacher_run_id))).state == "cancelled"


def _states(stack: Stack, client: Client, run: Run) -> list[str]:
    teacher = b""
    if run.teacher_run_id is not None:
        teacher_run = retry_until_answered(lambda: client.run(str(run.teacher_run_id)))
        teacher = (stack.artifacts / teacher_run.weights).read_bytes()
    spec = RunSpec.model_validate(run.spec)
    return digest_chain.states(spec.seed, spec.training.epochs, ranks_of(spec.seed, stack.timing.ranks), teacher)


def _compare_points(audit: Audit, client: Client, run: Run, expected: set[Point]) -> None:
    series = retry_until_answered(lambda: client.metrics(run.id, max_points=20_000)).series
    served = Counter(
        (each.name, step, value) for each in series for step, value in zip(each.step, each.value, strict=True)
    )
    audit.points += len(expected)
    missing = {_comparable(point) for point in expected} - {_comparable(point) for point in served}
    extra = {_comparable(point) for point in served} - {_comparable(point) for point in expected}
    doubled = [point for point, count in served.items() if count > 1]
    audit.points_lost += [f"run {run.id}: {point}" for point in sorted(missing)]
    audit.points_doubled += [f"run {run.id}: {point}" for point in [*sorted(extra), *map(_comparable, doubled)]]


def _comparable(point: Point) -> tuple[str, int, str]:
    """Return the point with its value as text, since NaN is not equal to itself."""
    return (point[0], point[1], repr(point[2]))


def _compare_logs(audit: Audit, client: Client, run: Run, journal: Path) -> None:
    """Check that each line of the last journal is served once. Lines of lost attempts may be served in addition."""
    logged = Counter(
        (datetime.fromtimestamp(record.time, UTC), record.event.message)
        for record in read_journal(journal)
        if isinstance(record.event, Log)
    )
    lines = retry_until_answered(lambda: client.logs(run.id, limit=5000)).lines
    served = Counter((line.time, line.message) for line in lines)
    for (time, message), count in logged.items():
        text = f"run {run.id}: the log line {message!r} of {time:%H:%M:%S.%f}"
        if served[time, message] < count:
            audit.points_lost.append(text)
        if served[time, message] > count:
            audit.points_doubled.append(text)


def _experiment_names(client: Client) -> Counter[str]:
    names: Counter[str] = Counter()
    cursor = None
    while True:
        page = retry_until_answered(lambda cursor=cursor: client.experiments(cursor=cursor))  # type: ignore[misc]
        names.update(item.name for item in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return names
