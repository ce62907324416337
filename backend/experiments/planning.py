"""From an experiment's spec to its rows: the experiment, its runs, and the teacher they share with others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.orm import Session

from backend.db import chunked, models, new_ids, now, objects
from backend.db.models import Experiment, ExperimentRun, ExperimentTag, Run
from backend.db.prepared import Prepared
from backend.db.upsert import insert_if_absent, new_rows
from backend.errors import invalid
from backend.experiments import planned_teachers
from backend.experiments.estimates import estimate
from backend.queue.eligibility import decode_labels, encode_labels
from backend.queue.teachers import inherit_priority, live_teacher, reactivate
from core.protocol.public import PlannedRunInfo, Preview, ProblemField
from core.specs import ExperimentSpec, PlannedRun, Problem, RunSpec, warnings_of

_EXPERIMENTS = new_rows(Experiment, unique=["name"], returning="id")
_RUNS = Prepared(insert(Run))
_LINKS = Prepared(insert(ExperimentRun))


def create(
    connection: Connection,
    specs: Sequence[tuple[str, ExperimentSpec]],
    *,
    submitted_by: str,
    sweep: str = "",
    webhook: str | None = None,
) -> list[str]:
    """Store experiments with all their runs in a few statements; their ids, in the order of the specs.

    A teacher that is being trained, or has been, is used again; students wait for it. The caller's transaction makes
    it all or nothing.

    Args:
        specs: each with what its path in the request begins with, as ``experiments.3.``.
        webhook: who is told where a spec names nobody itself.

    Raises:
        ApiError: 422 with the path of every name that is taken, also by another one of the specs.
    """
    timestamp = now(connection)
    ids = new_ids(len(specs))
    shared = {"created_at": timestamp, "submitted_by": submitted_by, "sweep": sweep}
    _insert_experiments(connection, ids, specs, shared, webhook)
    planned: list[tuple[str, PlannedRun, dict[str, Any]]] = []
    for experiment_id, (_, spec) in zip(ids, specs, strict=True):
        plan = spec.plan()
        planned += [(experiment_id, run, _row(run, "", experiment_id, spec, timestamp)) for run in plan]
    for (_, _, row), run_id in zip(planned, new_ids(len(planned)), strict=True):
        row["id"] = run_id
    wanted = [row for _, _, row in planned if row["role"] == "teacher"]
    if wanted:
        with objects(connection) as session:
            teachers = _share_teachers(session, wanted, timestamp)
            _insert_runs(connection, planned, teachers)
            for teacher in teachers.values():
                inherit_priority(session, teacher)
    else:
        _insert_runs(connection, planned, {})
    return ids


def _insert_runs(
    connection: Connection, planned: Sequence[tuple[str, PlannedRun, dict[str, Any]]], teachers: Mapping[str, Run]
) -> None:
    """Enter the students, and of every experiment which runs are its own, in the order of its plan."""
    students: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    positions: Counter[str] = Counter()
    for experiment_id, run, row in planned:
        if row["role"] == "teacher":
            row["id"] = teachers[row["fingerprint"]].id
        else:
            students.append(row)
            if run.spec.teacher:
                teacher = teachers[run.spec.teacher]
                row["teacher_run_id"] = teacher.id
                if teacher.state != "succeeded":
                    row |= {"state": "waiting", "queued_at": None}
        position = positions[experiment_id]
        positions[experiment_id] += 1
        links.append({"experiment_id": experiment_id, "run_id": row["id"], "label": row["label"], "position": position})
    _RUNS.run(connection, *students)
    _LINKS.run(connection, *links)


def _insert_experiments(
    connection: Connection,
    ids: Sequence[str],
    specs: Sequence[tuple[str, ExperimentSpec]],
    shared: dict[str, Any],
    webhook: str | None,
) -> None:
    rows = [
        {
            "id": key,
            "name": spec.name,
            "spec": spec.model_dump(mode="json"),
            "notes": spec.notes,
            "webhook": spec.webhook or webhook,
            **shared,
        }
        for key, (_, spec) in zip(ids, specs, strict=True)
    ]
    entered = {row.id for row in _EXPERIMENTS.each(connection, rows)}
    refused = [(prefix, spec.name) for key, (prefix, spec) in zip(ids, specs, strict=True) if key not in entered]
    if refused:
        first = {spec.name for key, (_, spec) in zip(ids, specs, strict=True) if key in entered}
        fields = [
            ProblemField(
                path=f"{prefix}name",
                message=f"{name!r} is given twice in this request"
                if name in first
                else f"an experiment named {name!r} exists already",
            )
            for prefix, name in refused
        ]
        more = f" (and {len(refused) - 1} more names are taken)" if len(refused) > 1 else ""
        raise invalid(f"{fields[0].message}{more}", *fields)
    tags = [
        {"experiment_id": key, "tag": tag}
        for key, (_, spec) in zip(ids, specs, strict=True)
        for tag in dict.fromkeys(spec.tags)
    ]
    if tags:
        connection.execute(insert(ExperimentTag), tags)


def preview(session: Session, spec: ExperimentSpec, resolved: ExperimentSpec, draft: Mapping[str, Any]) -> Preview:
    """What ``create`` would make, and what a person should know before.

    Args:
        resolved: the spec with its uploads named by their content, as it would be stored.
        draft: what a person goes on writing from.
    """
    plan = resolved.plan()
    teacher = planned_teachers.plan_teacher(session, resolved)
    shared = [item.spec.role == "teacher" and teacher is not None and teacher.run_id is not None for item in plan]
    runs = [
        PlannedRunInfo(
            label=item.label, role=item.spec.role, model=item.spec.model.name, seed=item.spec.seed, shared=known
        )
        for item, known in zip(plan, shared, strict=True)
    ]
    warnings = warnings_as_fields(warnings_of(spec))
    warnings[:0] = map(name_taken_warning, existing_names(session, [spec.name]))
    trained = [item.spec for item, known in zip(plan, shared, strict=True) if not known and _trains(item.spec)]
    return Preview(
        spec=spec.model_dump(mode="json"),
        draft=dict(draft),
        teacher=teacher,
        estimate=estimate(session, spec, trained),
        runs=runs,
        warnings=warnings,
    )


def _trains(run: RunSpec) -> bool:
    """Whether it takes a step: weights from elsewhere may be used as they are."""
    return run.weights is None or run.weights.fine_tune


def existing_names(session: Session, names: Sequence[str]) -> list[str]:
    """Those of the names that experiments have already."""
    return [
        name
        for some in chunked(names)
        for name in session.scalars(select(Experiment.name).where(Experiment.name.in_(some)).order_by(Experiment.name))
    ]


def name_taken_warning(name: str) -> ProblemField:
    return ProblemField(path="name", message=f"{name!r} is taken")


def warnings_as_fields(problems: list[Problem]) -> list[ProblemField]:
    return [ProblemField(path=problem.path, message=problem.message) for problem in problems]


def _row(
    planned: PlannedRun, run_id: str, experiment_id: str, spec: ExperimentSpec, timestamp: datetime
) -> dict[str, Any]:
    run = planned.spec
    return {
        "id": run_id,
        "experiment_id": experiment_id,
        "fingerprint": run.fingerprint(),
        "role": run.role,
        "label": planned.label,
        "dataset": run.dataset.name,
        "model": run.model.name,
        "method": run.method.name,
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


def _share_teachers(session: Session, rows: Sequence[dict[str, Any]], timestamp: datetime) -> dict[str, Run]:
    """The live teacher of each fingerprint, locked, in the order of the fingerprints: two requests that share several
    then never wait for each other."""
    wanted: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = wanted.setdefault(row["fingerprint"], row)
        known["priority"] = max(known["priority"], row["priority"])
        known["device"] = _either(known["device"], row["device"])
        known["labels"] = _common(known["labels"], row["labels"])
        known["gpus"] = min(known["gpus"], row["gpus"])
    return {fingerprint: _share_teacher(session, wanted[fingerprint], timestamp) for fingerprint in sorted(wanted)}


def _either(device: str, other: str) -> str:
    """Where a teacher may run that both ask for: neither may wait for a machine that only the other one has."""
    return "any" if {device, other} == {"cpu", "gpu"} else device


def _common(labels: str, other: str) -> str:
    """What its worker must be labelled with, for the same reason."""
    return encode_labels(set(decode_labels(labels)).intersection(decode_labels(other)))


def _share_teacher(session: Session, row: dict[str, Any], timestamp: datetime) -> Run:
    """The live teacher like this one, locked; made where there is none."""
    teacher: Run | None = None
    while teacher is None:  # between the two statements it may fail, and then ours can be inserted
        insert_if_absent(session.connection(), Run, row, unique=["fingerprint"], where=models.LIVE_TEACHER_CONDITION)
        teacher = live_teacher(session, row["fingerprint"], lock=True)
    teacher.device = _either(teacher.device, row["device"])
    teacher.labels = _common(teacher.labels, row["labels"])
    if teacher.attempt == 0:  # how many GPUs share a batch is not changed under way
        teacher.gpus = min(teacher.gpus, row["gpus"])
    reactivate(teacher, timestamp)
    session.flush()
    return teacher
