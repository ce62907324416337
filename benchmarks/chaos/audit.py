"""What came of the runs, counted from the answers of the API, the files and the trainings' own records."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chaos import chain, records
from benchmarks.chaos.claimers import CLAIMED
from benchmarks.chaos.load import Asked, Load, insist
from benchmarks.chaos.stack import Stack
from benchmarks.chaos.standin import is_played, ranks_of
from client import ApiError, Client
from core.events import JOURNAL_NAME, Event, Log, Metrics, Started, read_journal
from core.protocol.public import Run
from core.specs import RunSpec

Point = tuple[str, int, float]


@dataclass
class Audit:
    """Each list says what is wrong, a line each; all of them are to be empty.

    Attributes:
        submitted: runs that the backend accepted.
        states: of them, in the end.
        attempts: at all of them together.
        real: real trainings that came to their end.
        resumed: played runs of which an attempt went on from a checkpoint.
        expiries: attempts whose lease ran out, for a fault or because the machine was busy.
        points: metric points that were checked.
        lost: runs that did not come to their end, or to a wrong one, or are not known any more.
        twice: runs that were trained twice at the same time.
        points_lost: not served, or with another value.
        points_doubled: served twice, or of no training; also log lines.
        left: processes that should be gone.
        wrong: other things that must not be: weights of a played run, an experiment made twice.
        trained: real trainings that resumed, by run id, with the digest of their weights.
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


def audit(stack: Stack, load: Load) -> Audit:
    """Look at everything, while the backend runs and nothing else does any more."""
    found = Audit(submitted=len(load.runs))
    found.twice = [
        f"run {overlap.run}: attempts {overlap.attempts[0]} and {overlap.attempts[1]} ({overlap.seen})"
        for overlap in records.overlaps(records.read(stack.records))
    ]
    with stack.client() as client:
        claimed = (
            _succeeded(client, CLAIMED) if CLAIMED in load.keys else set()
        )  # by claimers that train nothing: there is no more to see
        found.states["succeeded"] = found.attempts = len(claimed)
        for asked in load.runs.values():
            if asked.run_id not in claimed:
                _look_at(found, stack, client, asked)
        made = _experiments(client)
    found.wrong += [f"the experiment {name} was made {count} times" for name, count in made.items() if count > 1]
    found.lost += [f"the experiment {name} is gone" for name in load.keys - set(made)]
    return found


def _look_at(found: Audit, stack: Stack, client: Client, asked: Asked) -> None:
    try:
        run = insist(lambda: client.run(asked.run_id))
    except ApiError as error:
        found.lost.append(f"run {asked.run_id}: {error}")
        return
    found.states[run.state] = found.states.get(run.state, 0) + 1
    found.attempts += run.attempt
    found.expiries += sum(each.outcome == "lost" and "lease" in each.reason for each in run.attempts)
    expected = {"cancelled", "succeeded"} if asked.cancelled else {"succeeded"}
    if run.state not in expected and not _orphaned(client, run):
        found.lost.append(f"run {run.id} ({run.label}) is {run.state} after {run.attempt} attempts: {run.reason}")
    if run.state != "succeeded" or run.experiment == CLAIMED:
        return
    folder = (stack.artifacts / run.weights).parent
    journal = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    went_on = _went_on(journal)
    content = (stack.artifacts / run.weights).read_bytes()
    if run.dataset == "synthetic":
        found.resumed += went_on
        states = _states(stack, client, run)
        if content != chain.weights(states[-1]):
            found.wrong.append(f"run {run.id}: its weights are not those of an undisturbed training")
        expected_points = {
            (name, step, value) for step, state in enumerate(states, 1) for name, value in chain.values(state).items()
        }
    else:
        found.real += 1
        if went_on:
            found.trained[run.id] = hashlib.sha256(content).hexdigest()
        metrics = [event for event in journal if isinstance(event, Metrics)]
        expected_points = {(name, event.step, value) for event in metrics for name, value in event.values.items()}
    _compare_points(found, client, run, expected_points)
    _compare_logs(found, client, run, folder / JOURNAL_NAME)


def real_resumed(artifacts: Path) -> int:
    """Real trainings that have resumed and come to their end by now, counted from their folders alone."""
    found = set()
    for weights in artifacts.glob("runs/*/attempt-*/weights.safetensors"):
        spec = json.loads((weights.parent / "run.json").read_text())
        if not is_played(spec) and _went_on(record.event for record in read_journal(weights.parent / JOURNAL_NAME)):
            found.add(weights.parents[1].name)
    return len(found)


def _went_on(journal: Iterable[Event]) -> bool:
    """Whether an attempt of it began at a checkpoint."""
    return any(isinstance(event, Started) and event.start_step > 0 for event in journal)


def _succeeded(client: Client, experiment: str) -> set[str]:
    """Ids of an experiment's runs that have succeeded; none where there is no such experiment."""
    found: set[str] = set()
    cursor = None
    while True:
        page = insist(
            lambda cursor=cursor: client.runs(experiment=experiment, state="succeeded", cursor=cursor, limit=200)  # type: ignore[misc]
        )
        found.update(run.id for run in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return found


def _orphaned(client: Client, run: Run) -> bool:
    """Whether it failed for want of a teacher that a person had cancelled, as it should."""
    if run.state != "failed" or run.teacher_run_id is None:
        return False
    return insist(lambda: client.run(str(run.teacher_run_id))).state == "cancelled"


def _states(stack: Stack, client: Client, run: Run) -> list[str]:
    teacher = b""
    if run.teacher_run_id is not None:
        made_by = insist(lambda: client.run(str(run.teacher_run_id)))
        teacher = (stack.artifacts / made_by.weights).read_bytes()
    spec = RunSpec.model_validate(run.spec)
    return chain.states(spec.seed, spec.training.epochs, ranks_of(spec.seed, stack.terms.ranks), teacher)


def _compare_points(found: Audit, client: Client, run: Run, expected: set[Point]) -> None:
    series = insist(lambda: client.metrics(run.id, max_points=20_000)).series
    served = Counter(
        (each.name, step, value) for each in series for step, value in zip(each.step, each.value, strict=True)
    )
    found.points += len(expected)
    missing = {_comparable(point) for point in expected} - {_comparable(point) for point in served}
    extra = {_comparable(point) for point in served} - {_comparable(point) for point in expected}
    doubled = [point for point, count in served.items() if count > 1]
    found.points_lost += [f"run {run.id}: {point}" for point in sorted(missing)]
    found.points_doubled += [f"run {run.id}: {point}" for point in [*sorted(extra), *map(_comparable, doubled)]]


def _comparable(point: Point) -> tuple[str, int, str]:
    """NaN is not equal to itself."""
    return (point[0], point[1], repr(point[2]))


def _compare_logs(found: Audit, client: Client, run: Run, journal: Path) -> None:
    """Each line of the last journal is served once. Lines of attempts that were lost may be there beside them."""
    said = Counter(
        (datetime.fromtimestamp(record.time, UTC), record.event.message)
        for record in read_journal(journal)
        if isinstance(record.event, Log)
    )
    lines = insist(lambda: client.logs(run.id, limit=5000)).lines
    served = Counter((line.time, line.message) for line in lines)
    for (time, message), count in said.items():
        text = f"run {run.id}: the log line {message!r} of {time:%H:%M:%S.%f}"
        if served[time, message] < count:
            found.points_lost.append(text)
        if served[time, message] > count:
            found.points_doubled.append(text)


def _experiments(client: Client) -> Counter[str]:
    names: Counter[str] = Counter()
    cursor = None
    while True:
        page = insist(lambda cursor=cursor: client.experiments(cursor=cursor))  # type: ignore[misc]
        names.update(item.name for item in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return names
