"""Changes to existing experiments: tags, notes, project and deletion."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from backend import audit
from backend.db import chunked
from backend.db.models import Experiment, ExperimentRun, ExperimentTag, Run
from backend.errors import conflict, invalid
from backend.people import projects, rights
from backend.queue.lanes import move_runs
from backend.queue.lifecycle import lock_run, lock_runs
from backend.queue.teacher_links import all_teachers, students_first, students_of
from core.protocol.public import TERMINAL, ProblemField
from core.protocol.submissions import MAX_TAGS, ExperimentEdit


def change(session: Session, experiment: Experiment, requested: ExperimentEdit) -> None:
    """Change the given fields of an experiment; the others stay as they are.

    Raises:
        ApiError: 422 for more tags than an experiment may have.
    """
    if requested.notes is not None:
        experiment.notes = requested.notes
    if requested.tags is not None or requested.add_tags or requested.remove_tags:
        _change_tags(session, experiment, requested)


def set_parent(session: Session, experiment: Experiment, parent: Experiment | None) -> None:
    """Set the experiment that an experiment was copied from; None for none.

    Raises:
        ApiError: 422 if the experiment is an ancestor of the parent, or the parent itself.
    """
    ancestor = parent
    seen: set[str] = set()
    while ancestor is not None and ancestor.id not in seen:
        if ancestor.id == experiment.id:
            message = f"{experiment.name} cannot be copied from itself"
            raise invalid(message, ProblemField(path="parent", message=message))
        seen.add(ancestor.id)
        ancestor = session.get(Experiment, ancestor.parent_id) if ancestor.parent_id else None
    experiment.parent_id = parent.id if parent else None


def move(session: Session, experiment: Experiment, project: str) -> None:
    """Move an experiment to another project; its runs, metrics and files are then in that project.

    Raises:
        ApiError: 404 or 403 if the sender of the request may not submit there; 409 if the project is archived.
    """
    rights.require(project, "submitter")
    projects.refuse_closed(session, project)
    audit.note(moved_to=project)
    experiment.project = project
    move_runs(session, Run.experiment_id == experiment.id, project)


def _change_tags(session: Session, experiment: Experiment, requested: ExperimentEdit) -> None:
    # Locked, so that concurrent additions do not overwrite each other.
    session.execute(select(Experiment.id).where(Experiment.id == experiment.id).with_for_update())
    belongs_to_experiment = ExperimentTag.experiment_id == experiment.id
    current = (
        session.scalars(select(ExperimentTag.tag).where(belongs_to_experiment))
        if requested.tags is None
        else requested.tags
    )
    removed = set(requested.remove_tags)
    tags = list(dict.fromkeys(tag for tag in (*current, *requested.add_tags) if tag not in removed))
    if len(tags) > MAX_TAGS:
        message = f"an experiment has at most {MAX_TAGS} tags; it would have {len(tags)}"
        raise invalid(message, ProblemField(path="add_tags", message=message))
    session.execute(delete(ExperimentTag).where(belongs_to_experiment))
    if tags:
        session.execute(insert(ExperimentTag), [{"experiment_id": experiment.id, "tag": tag} for tag in tags])


def delete_experiment(session: Session, experiment: Experiment) -> list[str]:
    """Delete an experiment and those of its runs that no other experiment or student uses.

    Returns:
        Ids of the deleted runs, whose files the caller then removes.

    Raises:
        ApiError: 409 if one of these runs has not ended.
    """
    in_other_experiment = (ExperimentRun.run_id == Run.id) & (ExperimentRun.experiment_id != experiment.id)
    linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id == experiment.id)
    shared = select(ExperimentRun.run_id).where(in_other_experiment).exists()
    exclusive = lock_runs(session, Run.id.in_(linked) & ~shared)
    ids = [run.id for run in exclusive]
    # A student of another experiment may have moved to a teacher of this one when its own had failed.
    used_elsewhere = _used_from_outside(session, [run.id for run in exclusive if run.role == "teacher"], ids)
    to_delete = [run for run in exclusive if run.id not in used_elsewhere]
    unfinished = [run for run in to_delete if run.state not in TERMINAL]
    if unfinished:
        count = "1 of its runs has" if len(unfinished) == 1 else f"{len(unfinished)} of its runs have"
        raise conflict(
            f"{count} not ended, e.g. {unfinished[0].id} ({unfinished[0].state}); cancel the experiment first"
        )
    _reassign_owner(session, experiment.id)
    session.execute(delete(Experiment).where(Experiment.id == experiment.id))
    _delete_runs(session, to_delete)
    return [run.id for run in to_delete]


def delete_run(session: Session, run_id: str) -> list[str]:
    """Delete one run.

    Returns:
        Its id, in a list.

    Raises:
        ApiError: 404 if there is no such run, or 409 if it has not ended or students use it.
    """
    run = lock_run(session, run_id)
    if run.state not in TERMINAL:
        raise conflict(f"this run has not ended: it is {run.state}; cancel it first")
    if run.role == "teacher":
        students = session.scalars(select(Run.id).where(students_of(run.id)).limit(1)).all()
        if students:
            raise conflict(f"students use this teacher, e.g. run {students[0]}; delete them first")
    session.execute(delete(ExperimentRun).where(ExperimentRun.run_id == run.id))
    _delete_runs(session, [run])
    return [run_id]


def _used_from_outside(session: Session, teachers: Sequence[str], ids: Sequence[str]) -> set[str]:
    """Return those of the teachers that other runs than the given ones use, and the teachers of these."""
    used = {
        teacher
        for teacher in teachers
        if session.scalars(select(Run.id).where(students_of(teacher), Run.id.not_in(ids)).limit(1)).all()
    }
    return used | all_teachers(session, used)


def _reassign_owner(session: Session, experiment_id: str) -> None:
    """Assign the runs that remain to the first other experiment that uses them."""
    remaining_users = select(ExperimentRun.experiment_id).where(
        ExperimentRun.run_id == Run.id, ExperimentRun.experiment_id != experiment_id
    )
    kept = session.scalars(select(Run.id).where(Run.experiment_id == experiment_id, remaining_users.exists())).all()
    new_owner = remaining_users.order_by(ExperimentRun.experiment_id).limit(1).scalar_subquery()
    session.execute(
        update(Run)
        .where(Run.experiment_id == experiment_id)
        .values(experiment_id=new_owner)
        .execution_options(synchronize_session=False)
    )
    for chunk in chunked(kept):
        of_chunk = Run.id.in_(chunk)
        owners = select(Experiment.project).join(Run, Run.experiment_id == Experiment.id)
        for project in session.scalars(owners.where(of_chunk).distinct()).all():
            of_project = Run.experiment_id.in_(select(Experiment.id).where(Experiment.project == project))
            move_runs(session, of_chunk & of_project, project)


def _delete_runs(session: Session, runs: Sequence[Run]) -> None:
    # Students first: they reference their teachers.
    students = [run.id for run in runs if run.role == "student"]
    teachers = students_first(session, [run for run in runs if run.role == "teacher"])
    for chunk in [*chunked(students), *([teacher.id] for teacher in teachers)]:
        session.execute(delete(Run).where(Run.id.in_(chunk)).execution_options(synchronize_session=False))
