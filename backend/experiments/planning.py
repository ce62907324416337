"""Creates an experiment's rows from its spec: the experiment, its runs and the teacher that they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.orm import Session

from backend.db import chunked, models, new_ids, now, session_on
from backend.db.models import Experiment, ExperimentRun, ExperimentTag, FurtherTeacher, Run, Share
from backend.db.upsert import insert_if_absent, insert_new
from backend.errors import invalid
from backend.experiments import planned_teachers
from backend.experiments.estimates import estimate
from backend.queue.eligibility import decode_labels, encode_labels
from backend.queue.lanes import lane_ids, set_lane
from backend.queue.teacher_links import further_rows, students_first
from backend.queue.teachers import inherit_priority, live_teacher, reactivate
from core.protocol.people import DEFAULT_PROJECT
from core.protocol.public import PlannedRunInfo, Preview, ProblemField
from core.specs import ExperimentSpec, PlannedRun, Problem, RunSpec, warnings_of
from core.tuning.trials import first_runs


@dataclass(frozen=True)
class PlaceInQueue:
    """Where the runs are queued that an experiment gets later: whose runs of which project, with which priority."""

    owner: str
    project: str
    priority: int


@dataclass(frozen=True)
class CreatedExperiment:
    """An experiment as it was written.

    Attributes:
        row: The values of its row.
        spec: Its spec.
        runs: The values of its runs' rows, in the order of its plan. A teacher that another experiment created has its
            own row, and only its ``id`` is here.
    """

    row: dict[str, Any]
    spec: ExperimentSpec
    runs: list[dict[str, Any]]

    @property
    def id(self) -> str:
        """The experiment's id."""
        experiment_id: str = self.row["id"]
        return experiment_id


def create(
    connection: Connection,
    specs: Sequence[tuple[str, ExperimentSpec]],
    *,
    submitted_by: str,
    project: str = DEFAULT_PROJECT,
    sweep: str = "",
    parent_id: str | None = None,
    webhook: str | None = None,
) -> list[CreatedExperiment]:
    """Store experiments with all their runs in a few statements.

    A teacher that has been or is being trained is shared; students wait for it. The caller's transaction creates all
    of them or none.

    Args:
        connection: A write transaction.
        specs: Pairs of the prefix of the spec's path in the request, such as ``experiments.3.``, and the spec.
        submitted_by: Name of the token that submits them.
        project: Name of their project.
        sweep: Name of the sweep; empty if they are not from a sweep.
        parent_id: Id of the experiment that they are copies of; None for none.
        webhook: Webhook of specs that have none.

    Returns:
        The experiments in the order of the specs.

    Raises:
        ApiError: 422 with the path of every name that another experiment, or another of the specs, has.
    """
    timestamp = now(connection)
    shared = {
        "created_at": timestamp,
        "submitted_by": submitted_by,
        "project": project,
        "sweep": sweep,
        "parent_id": parent_id,
    }
    experiments: list[dict[str, Any]] = [
        {
            "id": experiment_id,
            "name": spec.name,
            "spec": spec.model_dump(mode="json"),
            "notes": spec.notes,
            "webhook": spec.webhook or webhook,
            "seeds_open": True if spec.until_decided or spec.tune else None,
            **shared,
        }
        for experiment_id, (_, spec) in zip(new_ids(len(specs)), specs, strict=True)
    ]
    _insert_experiments(connection, experiments, specs)
    insert_if_absent(connection, Share, {"owner": submitted_by}, unique=["owner"])
    planned = [
        (run, _run_row(run, experiment["id"], spec, submitted_by, timestamp))
        for experiment, (_, spec) in zip(experiments, specs, strict=True)
        for run in first_runs(spec)
    ]
    for (_, row), run_id in zip(planned, new_ids(len(planned)), strict=True):
        row["id"] = run_id
    _set_lanes(connection, [row for _, row in planned], project)
    trials = {experiment["id"] for experiment, (_, spec) in zip(experiments, specs, strict=True) if spec.tune}
    runs = _insert_with_teachers(connection, planned, timestamp, trials=trials)
    return [
        CreatedExperiment(experiment, spec, runs[experiment["id"]])
        for experiment, (_, spec) in zip(experiments, specs, strict=True)
    ]


def lock_teachers(session: Session, planned: Sequence[PlannedRun]) -> dict[str, Run] | None:
    """Lock the teachers of planned students; None if one of them has failed or was cancelled.

    Returns:
        The teachers by their fingerprints.
    """
    fingerprints = sorted({fingerprint for run in planned for fingerprint in run.spec.teachers})
    live = {fingerprint: live_teacher(session, fingerprint, lock=True) for fingerprint in fingerprints}
    teachers = {fingerprint: teacher for fingerprint, teacher in live.items() if teacher is not None}
    return teachers if len(teachers) == len(live) else None


def add_students(
    session: Session,
    experiment_id: str,
    spec: ExperimentSpec,
    planned: Sequence[PlannedRun],
    teachers: Mapping[str, Run],
    place: PlaceInQueue,
) -> None:
    """Add students' runs to an experiment, after those that it has.

    Args:
        session: A write transaction.
        experiment_id: The experiment's id.
        spec: Its spec.
        planned: The runs.
        teachers: Their teachers, locked; a run waits for those that have not succeeded.
        place: The runs' place in the queue.
    """
    timestamp = now(session)
    rows = [
        (run, _run_row(run, experiment_id, spec, place.owner, timestamp) | {"priority": place.priority})
        for run in planned
    ]
    for (_, row), run_id in zip(rows, new_ids(len(rows)), strict=True):
        row["id"] = run_id
    _set_lanes(session.connection(), [row for _, row in rows], place.project)
    _insert_runs(session.connection(), rows, teachers, first_position=_next_position(session, experiment_id))
    inherit_priority(session, *students_first(session, list(teachers.values())))


def add_chosen(session: Session, experiment_id: str, spec: ExperimentSpec, place: PlaceInQueue) -> None:
    """Add the runs of an experiment whose settings have been chosen, after its trials.

    Args:
        session: A write transaction.
        experiment_id: The experiment's id.
        spec: Its spec with the settings.
        place: The runs' place in the queue.
    """
    timestamp = now(session)
    rows = [
        (run, _run_row(run, experiment_id, spec, place.owner, timestamp) | {"priority": place.priority})
        for run in spec.plan()
    ]
    for (_, row), run_id in zip(rows, new_ids(len(rows)), strict=True):
        row["id"] = run_id
    _set_lanes(session.connection(), [row for _, row in rows], place.project)
    position = _next_position(session, experiment_id)
    _insert_with_teachers(session.connection(), rows, timestamp, first_position=position)


def _set_lanes(connection: Connection, rows: Sequence[dict[str, Any]], project: str) -> None:
    """Set the lanes of new runs of a project."""
    keys = [(row["owner"], project, row["device"], row["gpus"], row["labels"]) for row in rows]
    ids = lane_ids(connection, keys)
    for row, key in zip(rows, keys, strict=True):
        row["lane_id"] = ids[key]


def _next_position(session: Session, experiment_id: str) -> int:
    last = select(func.max(ExperimentRun.position)).where(ExperimentRun.experiment_id == experiment_id)
    return (session.scalar(last) or 0) + 1


def _insert_with_teachers(
    connection: Connection,
    planned: Sequence[tuple[PlannedRun, dict[str, Any]]],
    timestamp: datetime,
    *,
    first_position: int = 0,
    trials: Collection[str] = (),
) -> dict[str, list[dict[str, Any]]]:
    """Insert runs, with those of their teachers that do not exist; see ``_insert_runs``."""
    teacher_rows = [row for _, row in planned if row["role"] == "teacher"]
    if not teacher_rows:
        return _insert_runs(connection, planned, {}, first_position=first_position, trials=trials)
    with session_on(connection) as session:
        needs = {row["fingerprint"]: run.spec.teachers for run, row in planned if row["role"] == "teacher"}
        teachers = _get_or_create_teachers(session, teacher_rows, needs, timestamp)
        runs = _insert_runs(connection, planned, teachers, first_position=first_position, trials=trials)
        inherit_priority(session, *students_first(session, list(teachers.values())))
    return runs


def _insert_runs(
    connection: Connection,
    planned: Sequence[tuple[PlannedRun, dict[str, Any]]],
    teachers: Mapping[str, Run],
    *,
    first_position: int = 0,
    trials: Collection[str] = (),
) -> dict[str, list[dict[str, Any]]]:
    """Insert the students, and link each experiment with its runs in the order of its plan.

    Args:
        connection: A write transaction.
        planned: The runs with their rows.
        teachers: The students' teachers by fingerprint.
        first_position: The position of an experiment's first run.
        trials: Ids of the experiments whose runs are trials.

    Returns:
        The rows of each experiment's runs, in that order, by the experiment's id.
    """
    students: list[dict[str, Any]] = []
    further: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run, row in planned:
        experiment_id = row["experiment_id"]
        if row["role"] == "teacher":
            row["id"] = teachers[row["fingerprint"]].id
        else:
            students.append(row)
            further += _set_teachers(row, [teachers[fingerprint] for fingerprint in run.spec.teachers])
        position = first_position + len(runs[experiment_id])
        runs[experiment_id].append(row)
        link = {"experiment_id": experiment_id, "run_id": row["id"], "label": row["label"], "position": position}
        links.append(link | {"trial": experiment_id in trials})
    connection.execute(insert(Run), students)
    if further:
        connection.execute(insert(FurtherTeacher), further)
    connection.execute(insert(ExperimentRun), links)
    return runs


def _set_teachers(row: dict[str, Any], teachers: Sequence[Run]) -> list[dict[str, Any]]:
    """Let the row of a run refer to its teachers, and wait for them; return the rows of those besides the first."""
    if not teachers:
        return []
    row["teacher_run_id"] = teachers[0].id
    if any(teacher.state != "succeeded" for teacher in teachers):
        row |= {"state": "waiting", "queued_at": None}
    return further_rows(row["id"], [teacher.id for teacher in teachers])


def _insert_experiments(
    connection: Connection, rows: Sequence[dict[str, Any]], specs: Sequence[tuple[str, ExperimentSpec]]
) -> None:
    inserted = set(insert_new(connection, Experiment, rows, unique=["name"], returning="id"))
    refused = [(prefix, row["name"]) for row, (prefix, _) in zip(rows, specs, strict=True) if row["id"] not in inserted]
    if refused:
        inserted_names = {row["name"] for row in rows if row["id"] in inserted}
        fields = [
            ProblemField(
                path=f"{prefix}name",
                message=f"{name!r} is used twice in this request"
                if name in inserted_names
                else f"an experiment named {name!r} exists already",
            )
            for prefix, name in refused
        ]
        more = f" (and {len(refused) - 1} more names are taken)" if len(refused) > 1 else ""
        raise invalid(f"{fields[0].message}{more}", *fields)
    tags = [
        {"experiment_id": row["id"], "tag": tag}
        for row, (_, spec) in zip(rows, specs, strict=True)
        for tag in dict.fromkeys(spec.tags)
    ]
    if tags:
        connection.execute(insert(ExperimentTag), tags)


def preview(session: Session, spec: ExperimentSpec, resolved: ExperimentSpec, draft: Mapping[str, Any]) -> Preview:
    """Return a preview of the runs that ``create`` would create, with warnings and an estimate of their time.

    Args:
        session: A read transaction.
        spec: The spec.
        resolved: The spec as it would be stored, with uploads named by their hash.
        draft: The spec for further editing.
    """
    plan = [*(first_runs(resolved) if resolved.tune else ()), *resolved.plan()]
    teachers, _, _ = planned_teachers.plan_teachers(session, [resolved], planned_teachers.MAX_PREVIEWED)
    existing = {teacher.fingerprint for teacher in teachers if teacher.run_id is not None}
    shared = [item.spec.role == "teacher" and item.spec.fingerprint() in existing for item in plan]
    runs = [
        PlannedRunInfo(
            label=item.label, role=item.spec.role, model=item.spec.model.name, seed=item.spec.seed, shared=is_shared
        )
        for item, is_shared in zip(plan, shared, strict=True)
    ]
    warnings = warnings_as_fields(warnings_of(spec))
    warnings[:0] = map(name_taken_warning, existing_names(session, [spec.name]))
    trained = [
        item.spec for item, is_shared in zip(plan, shared, strict=True) if not is_shared and _is_trained(item.spec)
    ]
    return Preview(
        spec=spec.model_dump(mode="json"),
        draft=dict(draft),
        teacher=teachers[-1] if teachers else None,
        teachers=teachers,
        estimate=estimate(session, spec, trained),
        runs=runs,
        warnings=warnings,
    )


def _is_trained(run: RunSpec) -> bool:
    """Return whether the run trains a network; False if it uses given weights unchanged."""
    return run.weights is None or run.weights.fine_tune


def existing_names(session: Session, names: Sequence[str]) -> list[str]:
    """Return the given names that experiments already have."""
    return [
        name
        for chunk in chunked(names)
        for name in session.scalars(select(Experiment.name).where(Experiment.name.in_(chunk)).order_by(Experiment.name))
    ]


def name_taken_warning(name: str) -> ProblemField:
    """Return the warning for a name that another experiment has."""
    return ProblemField(path="name", message=f"{name!r} is taken")


def warnings_as_fields(problems: list[Problem]) -> list[ProblemField]:
    """Convert a spec's problems to fields of a reply."""
    return [ProblemField(path=problem.path, message=problem.message) for problem in problems]


def _run_row(
    planned: PlannedRun, experiment_id: str, spec: ExperimentSpec, owner: str, timestamp: datetime
) -> dict[str, Any]:
    """Return the values of a run's row, without its id."""
    run = planned.spec
    return {
        "experiment_id": experiment_id,
        "owner": owner,
        "fingerprint": run.fingerprint(),
        "role": run.role,
        "label": planned.label,
        "dataset": run.dataset.name,
        "model": run.model.name,
        "method": run.method.full_name,
        "seed": run.seed,
        "spec": run.model_dump(mode="json"),
        "state": "queued",
        "priority": spec.priority,
        "device": spec.resources.device,
        "gpus": spec.resources.gpus,
        "labels": encode_labels(spec.resources.labels),
        "teacher_run_id": None,
        "total_epochs": run.training.epochs,
        "queued_at": timestamp,
        "created_at": timestamp,
    }


def _get_or_create_teachers(
    session: Session, rows: Sequence[dict[str, Any]], needs: Mapping[str, Sequence[str]], timestamp: datetime
) -> dict[str, Run]:
    """Lock the live teacher of each fingerprint, creating missing ones, each after its own teachers.

    The order prevents deadlocks of requests that share several teachers.

    Args:
        session: A write transaction.
        rows: Values of the teachers' rows.
        needs: The fingerprints of the teachers of each teacher, by its own.
        timestamp: The database's time.
    """
    teacher_rows: dict[str, dict[str, Any]] = {}
    for row in rows:
        shared_row = teacher_rows.setdefault(row["fingerprint"], row)
        shared_row["priority"] = max(shared_row["priority"], row["priority"])
        shared_row["device"] = _common_device(shared_row["device"], row["device"])
        shared_row["labels"] = _common_labels(shared_row["labels"], row["labels"])
        shared_row["gpus"] = min(shared_row["gpus"], row["gpus"])

    def depth(fingerprint: str) -> int:
        return 1 + max(map(depth, needs[fingerprint]), default=0)

    teachers: dict[str, Run] = {}
    for fingerprint in sorted(teacher_rows, key=lambda key: (depth(key), key)):
        row = teacher_rows[fingerprint]
        _set_teachers(row, [teachers[key] for key in needs[fingerprint]])
        teachers[fingerprint] = _get_or_create_teacher(session, row, timestamp)
    return teachers


def _common_device(device: str, other: str) -> str:
    """Return the device of a teacher that two experiments share.

    Neither may wait for a machine that only the other requires.
    """
    return "any" if {device, other} == {"cpu", "gpu"} else device


def _common_labels(labels: str, other: str) -> str:
    """Return the labels that both experiments require, for the same reason."""
    return encode_labels(set(decode_labels(labels)).intersection(decode_labels(other)))


def _get_or_create_teacher(session: Session, row: dict[str, Any], timestamp: datetime) -> Run:
    """Lock the live teacher with the row's fingerprint; insert the row if there is none."""
    teacher: Run | None = None
    while teacher is None:  # it may fail between the two statements; then the row can be inserted
        insert_if_absent(session.connection(), Run, row, unique=["fingerprint"], where=models.LIVE_TEACHER_CONDITION)
        teacher = live_teacher(session, row["fingerprint"], lock=True)
    teacher.device = _common_device(teacher.device, row["device"])
    teacher.labels = _common_labels(teacher.labels, row["labels"])
    if teacher.attempt == 0:  # the number of GPUs that share a batch must not change during training
        teacher.gpus = min(teacher.gpus, row["gpus"])
    set_lane(session, teacher)
    reactivate(session, teacher, timestamp)
    session.flush()
    return teacher
