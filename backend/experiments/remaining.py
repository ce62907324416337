"""Estimates of the time until an experiment has ended, its teachers included."""

from __future__ import annotations

import heapq
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from backend.db import chunked
from backend.db.models import Attempt, Experiment, ExperimentRun, FurtherTeacher, Run
from backend.experiments.activity import seconds_per_step
from backend.experiments.estimates import RunTimes, past_times
from backend.queue import quotas, worker_queries
from backend.queue.eligibility import WorkerCapacity, decode_labels, encode_labels
from backend.queue.leased import LEASED_STATES
from core.protocol.public import TERMINAL, TimeLeft
from core.specs import PlannedRun, RunSpec, parse_stored_experiment
from core.specs.components import Resources

_MAX_KINDS = 20
"""Kinds of runs whose speed is looked up among the runs of other experiments."""

_MAX_ENDED = 200
"""Runs of the experiment that have ended and whose speed counts: the last of the plan."""
# Columns instead of objects: a run's spec is long, and an experiment may have thousands of runs.
_COLUMNS = (
    *(Run.id, Run.role, Run.model, Run.method, Run.state, Run.step, Run.total_steps, Run.epoch, Run.total_epochs),
    *(Run.gpus, Run.device, Run.labels, Run.teacher_run_id, Run.attempt, Run.checkpoint_step, Run.pausing),
)
Timed = Any
"""The columns of a run."""
Kind = tuple[str, str, str]
"""Role, network and method of a run. Runs of a kind in one experiment take the same time per epoch."""


@dataclass(frozen=True)
class _Following:
    """A run that will follow the choice of settings, with the columns of a run that has not begun.

    Attributes:
        id: The fingerprint of a teacher, by which its students name it; another text for a student.
        planned: The run, with the settings of the spec.
        resources: What it will need.
    """

    id: str
    planned: PlannedRun
    resources: Resources
    state = "waiting"
    step = total_steps = attempt = checkpoint_step = 0
    epoch = 0.0
    pausing = False
    teacher_run_id = None

    @property
    def role(self) -> str:
        return self.planned.spec.role

    @property
    def model(self) -> str:
        return self.planned.spec.model.name

    @property
    def method(self) -> str:
        return self.planned.spec.method.full_name

    @property
    def total_epochs(self) -> int:
        return self.planned.spec.training.epochs

    @property
    def gpus(self) -> int:
        return self.resources.gpus

    @property
    def device(self) -> str:
        return self.resources.device

    @property
    def labels(self) -> str:
        return encode_labels(self.resources.labels)


def time_left(session: Session, experiment: Experiment) -> TimeLeft:
    """Estimate the time until every run of an experiment has ended.

    A run takes as long as the runs of its kind in the experiment; without any, as past runs of other experiments. A run
    that has not begun also takes their time before the first epoch and after the last one; of a run that trains, the
    time after the last one is not known and is left out. A run that will be started again continues from its last
    checkpoint. Runs start in the order of the plan as slots become free; those that wait for a teacher let others pass.
    While settings are being chosen, the runs that follow the choice count as well.

    Args:
        session: A read transaction.
        experiment: The experiment.
    """
    link = ExperimentRun
    query = select(*_COLUMNS).join(link, link.run_id == Run.id).where(link.experiment_id == experiment.id)
    runs = session.execute(query.order_by(link.position)).all()
    unfinished = [run for run in runs if run.state not in TERMINAL]
    following = _runs_after_the_choice(session, experiment)
    left: list[Timed] = [*unfinished, *following]
    if not left:
        return TimeLeft(seconds=0.0, parallel=0, runs=0)
    ended = [run for run in runs if run.state in TERMINAL and run.step][-_MAX_ENDED:]
    timed = [*ended, *(run for run in unfinished if run.step)]
    per_step = seconds_per_step(session, [run.id for run in timed])
    times = _times(session, timed, left, per_step)
    seconds = {run.id: own for run in left if (own := _seconds(run, per_step, times)) is not None}
    parallel = _parallel(session, left, experiment.project)
    ends = _schedule(unfinished, seconds, _teachers_of(session, unfinished), parallel)
    own_teachers = {run.id: set(run.planned.spec.teachers) for run in following}
    ends |= _schedule(following, seconds, own_teachers, parallel, start=max(ends.values(), default=0.0))
    teachers = [ends[run.id] for run in left if run.role == "teacher"]
    return TimeLeft(
        seconds=max(ends.values()) if seconds else None,
        teacher_seconds=max(teachers) if teachers and seconds else None,
        parallel=parallel,
        runs=len(unfinished),
        paused=sum(run.state == "paused" or run.pausing for run in unfinished),
        unknown=len(left) - len(seconds),
        following=len(following),
    )


def _runs_after_the_choice(session: Session, experiment: Experiment) -> list[_Following]:
    """Return the runs that will be added when the settings have been chosen; none if nothing is to be chosen.

    Teachers that have been trained already are left out.
    """
    if not experiment.seeds_open or experiment.choice is not None or not experiment.spec.get("tune"):
        return []
    try:
        spec = parse_stored_experiment(experiment.spec)
    except ValidationError:  # such as an entry of a plugin that is no longer loaded
        return []
    plan = spec.plan()
    fingerprints = [run.spec.fingerprint() if run.spec.role == "teacher" else "" for run in plan]
    trained = set(
        session.scalars(
            select(Run.fingerprint).where(
                Run.role == "teacher", Run.state == "succeeded", Run.fingerprint.in_(filter(None, fingerprints))
            )
        )
    )
    return [
        _Following(fingerprint or f"student {number}", run, spec.resources)
        for number, (run, fingerprint) in enumerate(zip(plan, fingerprints, strict=True))
        if fingerprint not in trained
    ]


def _kind(run: Timed) -> Kind:
    return (run.role, run.model, run.method)


def _times(
    session: Session, runs: Sequence[Timed], unfinished: Sequence[Timed], per_step: Mapping[str, float]
) -> dict[Kind, RunTimes]:
    """Return the times of each kind that has been trained."""
    epoch: dict[Kind, list[float]] = defaultdict(list)
    other: dict[Kind, list[float]] = defaultdict(list)
    durations = _durations(session, runs)
    for run in runs:
        if run.id in per_step and run.total_steps and run.total_epochs:
            epoch[_kind(run)].append(per_step[run.id] * run.total_steps / run.total_epochs)
            if run.id in durations:
                other[_kind(run)].append(max(0.0, durations[run.id] - per_step[run.id] * run.step))
    found = {
        kind: RunTimes(statistics.median(values), statistics.median(other[kind]) if kind in other else None)
        for kind, values in epoch.items()
    }
    missing = {_kind(run): run for run in reversed(unfinished) if _kind(run) not in found}
    for kind, run in [*missing.items()][:_MAX_KINDS]:
        try:
            stored = isinstance(run, Row)
            spec = RunSpec.model_validate(session.get_one(Run, run.id).spec) if stored else run.planned.spec
        except ValidationError:  # such as an entry of a plugin that is no longer loaded
            continue
        past = past_times(session, spec, run.device, gpus=run.gpus)
        if past is not None:
            found[kind] = past
    return found


def _durations(session: Session, runs: Sequence[Timed]) -> dict[str, float]:
    """Return the seconds from start to end of the runs that succeeded in their first attempt."""
    succeeded = [run.id for run in runs if run.state == "succeeded" and run.attempt == 1]
    query = select(Attempt.run_id, Attempt.started_at, Attempt.ended_at).where(
        Attempt.run_id.in_(succeeded), Attempt.number == 1, Attempt.ended_at.is_not(None)
    )
    return {run_id: (ended - started).total_seconds() for run_id, started, ended in session.execute(query) if ended}


def _seconds(run: Timed, per_step: Mapping[str, float], times: Mapping[Kind, RunTimes]) -> float | None:
    if run.state == "cancelling":  # it only stops its processes
        return 0.0
    leased = run.state in LEASED_STATES
    step = run.step if leased else run.checkpoint_step
    if run.id in per_step and run.total_steps:
        return float(max(run.total_steps - step, 0) * per_step[run.id])
    if _kind(run) not in times:
        return None
    done = run.epoch if leased and math.isfinite(run.epoch) else 0.0
    return times[_kind(run)].of(max(run.total_epochs - done, 0.0))


def _parallel(session: Session, unfinished: Sequence[Timed], project: str) -> int:
    """Return how many of the runs can train at once: those that do, and those for which there are free slots.

    These are slots of workers that can take the runs, as far as the quota of the project allows them.
    """
    training = sum(run.state in LEASED_STATES for run in unfinished)
    needs = {(run.device, max(run.gpus, 1), run.labels) for run in unfinished}
    room = 0
    for worker in worker_queries.list_workers(session):
        gpus = (len(worker.gpus) or worker.slots) if worker.device == "gpu" else 0
        capacity = WorkerCapacity(worker.device, gpus, frozenset(worker.labels))
        possible = [gpus for device, gpus, labels in needs if capacity.can_run(device, gpus, decode_labels(labels))]
        if possible and worker.state == "online" and not worker.draining:
            room += max(worker.slots - worker.busy, 0) // max(possible)  # a run cannot have slots of two workers
    connection = session.connection()
    slots = quotas.limits_of(connection, [project]).get(project, quotas.Limits()).slots
    if slots is not None:
        free = slots - quotas.slots_of(connection, [project]).get(project, 0)
        room = min(room, max(free, 0) // max(gpus for _, gpus, _ in needs))
    return min(max(training + room, 1), len(unfinished))


def _teachers_of(session: Session, runs: Sequence[Timed]) -> dict[str, set[str]]:
    teachers = {run.id: {run.teacher_run_id} if run.teacher_run_id else set() for run in runs}
    for chunk in chunked(teachers):
        query = select(FurtherTeacher.run_id, FurtherTeacher.teacher_run_id).where(FurtherTeacher.run_id.in_(chunk))
        for run_id, teacher in session.execute(query):
            teachers[run_id].add(teacher)
    return teachers


def _schedule(
    runs: Sequence[Timed],
    seconds: Mapping[str, float],
    teachers: Mapping[str, set[str]],
    parallel: int,
    *,
    start: float = 0.0,
) -> dict[str, float]:
    """Return the time from now at which each run ends; none begins before ``start``.

    A slot that becomes free takes the first run whose teachers have ended. A run without an estimate takes no time.
    """
    order = sorted(runs, key=_order)  # stable, so that runs of a rank stay in the order of the plan
    places = {run.id: place for place, run in enumerate(order)}
    awaited = {run.id: {teacher for teacher in teachers[run.id] if teacher in places} for run in order}
    students: dict[str, list[str]] = defaultdict(list)
    for run_id, missing in awaited.items():
        for teacher in missing:
            students[teacher].append(run_id)
    slots = [start] * parallel
    ends: dict[str, float] = {}
    ready = [places[run.id] for run in order if not awaited[run.id]]  # a sorted list is a heap
    ready_later: list[tuple[float, int]] = []
    while ready or ready_later:
        free = heapq.heappop(slots)
        if not ready:
            free = max(free, ready_later[0][0])
        while ready_later and ready_later[0][0] <= free:
            heapq.heappush(ready, heapq.heappop(ready_later)[1])
        run_id = order[heapq.heappop(ready)].id
        ends[run_id] = free + seconds.get(run_id, 0.0)
        heapq.heappush(slots, ends[run_id])
        for student in students[run_id]:
            awaited[student].remove(run_id)
            if not awaited[student]:
                begin = max(ends[teacher] for teacher in teachers[student] if teacher in places)
                heapq.heappush(ready_later, (begin, places[student]))
    return ends


def _order(run: Timed) -> tuple[bool, bool]:
    return (run.state not in LEASED_STATES, run.role == "student")
