"""From an experiment's spec to its rows: the experiment, its runs, and the teacher they share with others."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import and_, insert, select
from sqlalchemy.orm import Session

from backend.db import models, new_id, new_ids, now
from backend.db.models import Experiment, ExperimentRun, Run
from backend.db.upsert import insert_if_absent
from backend.errors import invalid
from core.spec import ExperimentSpec, PlannedRun, Problem, warnings_of
from core.wire.public import PlannedRunInfo, Preview, ProblemField

_LIVE_TEACHER = and_(Run.role == "teacher", Run.state.not_in(("failed", "cancelled")))


def create(session: Session, spec: ExperimentSpec) -> Experiment:
    """Store an experiment and all its runs. Raises ApiError 422 where its name is taken.

    A teacher that is being trained, or has been, is used again; students wait for it. The caller's transaction makes
    it all or nothing.
    """
    moment = now(session)
    experiment_id = new_id()
    values = {"id": experiment_id, "name": spec.name, "spec": spec.model_dump(mode="json"), "created_at": moment}
    if not insert_if_absent(session, Experiment, values, unique=["name"]):
        raise invalid(f"an experiment named {spec.name!r} exists already", name_taken(spec.name))
    plan = spec.plan()
    rows = [
        _row(planned, run_id, experiment_id, spec, moment)
        for planned, run_id in zip(plan, new_ids(len(plan)), strict=True)
    ]
    teacher: Run | None = None
    if plan[0].spec.role == "teacher":
        teacher = _share_teacher(session, rows[0])
        rows[0]["id"] = teacher.id
    students = rows[1:] if teacher else rows
    for planned, row in zip(plan[-len(students) :], students, strict=True):
        if teacher and planned.spec.teacher:
            row["teacher_run_id"] = teacher.id
            if teacher.state != "succeeded":
                row["state"] = "waiting"
    session.execute(insert(Run), students)
    links = [
        {"experiment_id": experiment_id, "run_id": row["id"], "label": row["label"], "position": position}
        for position, row in enumerate(rows)
    ]
    session.execute(insert(ExperimentRun), links)
    return session.get_one(Experiment, experiment_id)


def preview(session: Session, spec: ExperimentSpec) -> Preview:
    """What ``create`` would make, and what a person should know before."""
    runs = [
        PlannedRunInfo(
            label=planned.label,
            role=planned.spec.role,
            model=planned.spec.model.name,
            seed=planned.spec.seed,
            shared=planned.spec.role == "teacher" and _find_teacher(session, planned.spec.fingerprint()) is not None,
        )
        for planned in spec.plan()
    ]
    warnings = warnings_as_fields(warnings_of(spec))
    if session.scalars(select(Experiment.id).where(Experiment.name == spec.name)).one_or_none():
        warnings.insert(0, name_taken(spec.name))
    return Preview(runs=runs, warnings=warnings)


def name_taken(name: str) -> ProblemField:
    return ProblemField(path="name", message=f"{name!r} is taken")


def warnings_as_fields(problems: list[Problem]) -> list[ProblemField]:
    return [ProblemField(path=problem.path, message=problem.message) for problem in problems]


def live_teacher(session: Session, fingerprint: str, *, lock: bool = False) -> Run | None:
    """The teacher of that fingerprint that is trained or will be; there is at most one."""
    query = select(Run).where(_LIVE_TEACHER, Run.fingerprint == fingerprint)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def _find_teacher(session: Session, fingerprint: str) -> str | None:
    return session.scalars(select(Run.id).where(_LIVE_TEACHER, Run.fingerprint == fingerprint)).one_or_none()


def _row(
    planned: PlannedRun, run_id: str, experiment_id: str, spec: ExperimentSpec, moment: datetime
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
        "teacher_run_id": None,
        "total_epochs": run.training.epochs,
        "created_at": moment,
    }


def _share_teacher(session: Session, row: dict[str, Any]) -> Run:
    """The live teacher like this one, locked; made where there is none."""
    teacher: Run | None = None
    while teacher is None:  # between the two statements it may fail, and then ours can be inserted
        insert_if_absent(session, Run, row, unique=["fingerprint"], where=models.LIVE_TEACHER_CONDITION)
        teacher = live_teacher(session, row["fingerprint"], lock=True)
    teacher.priority = max(teacher.priority, row["priority"])
    if {teacher.device, row["device"]} == {"cpu", "gpu"}:
        teacher.device = "any"  # neither experiment may wait for a machine that only the other one has
    if teacher.state == "cancelling":
        # Somebody needs it again. Where the worker has been told already, it says "cancelled", and since nobody wants
        # that any more the run goes back to the queue.
        teacher.state = "running"
    session.flush()
    return teacher
