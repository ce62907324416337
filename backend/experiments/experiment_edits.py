"""What a person does with experiments that are there: tags, notes, and the end of them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from backend.db import chunked
from backend.db.models import Experiment, ExperimentRun, ExperimentTag, Run
from backend.errors import conflict, invalid
from backend.queue.lifecycle import lock_run, lock_runs
from core.protocol.public import TERMINAL, ProblemField
from core.protocol.submissions import MAX_TAGS, ExperimentChange


def change(session: Session, experiment: Experiment, wanted: ExperimentChange) -> None:
    """Set what is given; the rest stays. Raises ApiError 422 for more tags than an experiment may have."""
    if wanted.notes is not None:
        experiment.notes = wanted.notes
    if wanted.tags is not None or wanted.add_tags or wanted.remove_tags:
        _tag(session, experiment, wanted)


def _tag(session: Session, experiment: Experiment, wanted: ExperimentChange) -> None:
    # Locked, so that of two who add a tag at once neither overwrites the other's.
    session.execute(select(Experiment.id).where(Experiment.id == experiment.id).with_for_update())
    own = ExperimentTag.experiment_id == experiment.id
    known = session.scalars(select(ExperimentTag.tag).where(own)) if wanted.tags is None else wanted.tags
    off = set(wanted.remove_tags)
    tags = list(dict.fromkeys(tag for tag in (*known, *wanted.add_tags) if tag not in off))
    if len(tags) > MAX_TAGS:
        message = f"an experiment has at most {MAX_TAGS} tags; it would have {len(tags)}"
        raise invalid(message, ProblemField(path="add_tags", message=message))
    session.execute(delete(ExperimentTag).where(own))
    if tags:
        session.execute(insert(ExperimentTag), [{"experiment_id": experiment.id, "tag": tag} for tag in tags])


def delete_experiment(session: Session, experiment: Experiment) -> list[str]:
    """Delete it with the runs that nothing else uses; returns their ids, whose files are then to be removed.

    Raises ApiError 409 while one of those runs has not ended.
    """
    other = (ExperimentRun.run_id == Run.id) & (ExperimentRun.experiment_id != experiment.id)
    linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == experiment.id)
    shared = select(ExperimentRun.run_id).where(other).exists()
    own = lock_runs(session, Run.id.in_(linked) & ~shared)
    ids = [run.id for run in own]
    teachers = {run.id for run in own if run.role == "teacher"}
    # A student of another experiment may have moved to this teacher when its own had failed.
    kept = _used_from_outside(session, teachers, ids)
    going = [run for run in own if run.id not in kept]
    alive = [run for run in going if run.state not in TERMINAL]
    if alive:
        count = "1 of its runs has" if len(alive) == 1 else f"{len(alive)} of its runs have"
        raise conflict(f"{count} not ended, as {alive[0].id} ({alive[0].state}); cancel the experiment first")
    _hand_over(session, experiment.id)
    session.execute(delete(Experiment).where(Experiment.id == experiment.id))
    _delete_runs(session, going)
    return [run.id for run in going]


def delete_run(session: Session, run_id: str) -> list[str]:
    """Delete one run; returns its id in a list. Raises ApiError 404, or 409 while it lives or students use it."""
    run = lock_run(session, run_id)
    if run.state not in TERMINAL:
        raise conflict(f"this run has not ended, it is {run.state}; cancel it first")
    if run.role == "teacher":
        students = session.scalars(select(Run.id).where(Run.teacher_run_id == run.id).limit(1)).all()
        if students:
            raise conflict(f"this teacher is in use by its students, as run {students[0]}; delete those first")
    session.execute(delete(ExperimentRun).where(ExperimentRun.run_id == run.id))
    _delete_runs(session, [run])
    return [run_id]


def _used_from_outside(session: Session, teachers: set[str], ids: Sequence[str]) -> set[str]:
    if not teachers:
        return set()
    students = session.execute(select(Run.id, Run.teacher_run_id).where(Run.teacher_run_id.in_(teachers)))
    inside = set(ids)
    return {str(teacher) for student, teacher in students if student not in inside}


def _hand_over(session: Session, experiment_id: str) -> None:
    """Runs that stay are from now on those of the first other experiment that uses them."""
    used = select(ExperimentRun.experiment_id).where(
        ExperimentRun.run_id == Run.id, ExperimentRun.experiment_id != experiment_id
    )
    heir = used.order_by(ExperimentRun.experiment_id).limit(1).scalar_subquery()
    session.execute(
        update(Run)
        .where(Run.experiment_id == experiment_id)
        .values(experiment_id=heir)
        .execution_options(synchronize_session=False)
    )


def _delete_runs(session: Session, runs: Sequence[Run]) -> None:
    # Students first: they refer to their teacher.
    for role in ("student", "teacher"):
        ids = [run.id for run in runs if run.role == role]
        for some in chunked(ids):
            session.execute(delete(Run).where(Run.id.in_(some)).execution_options(synchronize_session=False))
