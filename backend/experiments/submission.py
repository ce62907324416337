"""Creates experiments from a request: one, several, the points of a sweep, or a changed copy of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend import audit
from backend.api import idempotency
from backend.api.boundary import check_client_waits
from backend.api.request_bodies import SubmissionRequest
from backend.artifacts import uploads
from backend.db import session_on
from backend.db.models import Experiment, ExperimentTag
from backend.errors import ApiError, conflict
from backend.experiments import planning
from backend.experiments.planning import CreatedExperiment
from backend.operations.webhooks import refuse_webhooks
from backend.people import projects, rights
from backend.queue import quotas
from backend.settings import Settings
from common.input_bounds import MAX_PROBLEMS
from core.protocol.people import DEFAULT_PROJECT
from core.protocol.public import Preview
from core.protocol.submissions import MAX_EXPERIMENTS, MAX_RUNS, SubmittedExperiment, SubmittedExperiments
from core.specs import (
    ExperimentSpec,
    Problem,
    SpecError,
    detach_derived_fields,
    field_at,
    parse_experiment,
    with_field,
    with_fields,
)
from core.specs.experiment import NAME_LENGTH
from core.specs.sweep import rename_swept
from core.specs.text_rules import normal
from core.tuning.trials import student_count


@dataclass(frozen=True)
class Submitted:
    """The experiments of a request.

    Attributes:
        ids: Their ids, in the order of the specs.
        created: The experiments; empty if the same request created them before.
    """

    ids: list[str]
    created: list[CreatedExperiment]


def create_once(
    connection: Connection,
    request: SubmissionRequest,
    specs: Sequence[tuple[str, ExperimentSpec]],
    *,
    sweep: str = "",
    parent: str = "",
) -> Submitted:
    """Create the experiments of a request, unless the same request created them before.

    Args:
        connection: A write transaction.
        request: The request.
        specs: As of ``create``.
        sweep: As of ``create``.
        parent: Id or name of the experiment that they are copies of; empty for none.

    Raises:
        SpecError: A spec is refused, for the same reasons as by ``create``, or there is no such parent.
        ApiError: 409 if the experiments have been deleted since, 422 if a name is taken or the key was used with
            another body.
    """
    keyed = request.keyed
    existing = idempotency.find(connection, keyed) if keyed else None
    audit.note(**{"sweep": sweep} if sweep else {}, names=[spec.name for _, spec in specs])
    if existing is None:
        try:
            created = create(
                connection,
                specs,
                request.settings,
                submitted_by=request.principal.submitter,
                project=request.project,
                sweep=sweep,
                parent_id=_parent_id(connection, parent) if parent else None,
            )
        except ApiError:
            # The same request, sent to another replica at the same time, may have used the name.
            existing = idempotency.find(connection, keyed) if keyed else None
            if existing is None:
                raise
        else:
            ids = [experiment.id for experiment in created]
            if keyed and not idempotency.remember(connection, keyed, ids):
                raise idempotency.key_reused()
            audit.about("experiment", ids[0], project=request.project)
            return Submitted(ids, created)
    found = connection.scalars(select(Experiment.project).where(Experiment.id.in_(existing[:1]))).all()
    if not all(map(rights.sees, found)) or len(found) != len(existing[:1]):
        raise conflict("the experiments of this request have been deleted since; send it with a new Idempotency-Key")
    audit.about("experiment", existing[0], repeated=True)
    return Submitted(existing, [])


def _parent_id(connection: Connection, key: str) -> str:
    """Return the id of the experiment with this id or name.

    Raises:
        SpecError: There is none.
    """
    named = Experiment.name.in_(dict.fromkeys((key, normal(key))))
    for condition in (Experiment.id == key, named):
        found = connection.execute(select(Experiment.id, Experiment.project).where(condition)).first()
        if found is not None and rights.sees(found.project):
            experiment_id: str = found.id
            return experiment_id
    raise SpecError([Problem("parent", f"there is no experiment {key!r}; it may have been deleted")])


def create(
    connection: Connection,
    specs: Sequence[tuple[str, ExperimentSpec]],
    settings: Settings,
    *,
    submitted_by: str,
    project: str = DEFAULT_PROJECT,
    sweep: str = "",
    parent_id: str | None = None,
) -> list[CreatedExperiment]:
    """Create experiments, after resolving the uploads that they name.

    Args:
        connection: A write transaction.
        specs: Pairs of the prefix of the spec's path in the request and the spec.
        settings: The backend's settings.
        submitted_by: Name of the person or token that submits them.
        project: Name of their project, in which the sender may submit.
        sweep: Name of the sweep; empty if they are not from a sweep.
        parent_id: Id of the experiment that they are copies of; None for none.

    Returns:
        The experiments in the order of the specs.

    Raises:
        SpecError: A spec names an upload that does not exist or a webhook that is not allowed.
        ApiError: 422 if a name is taken; 404 if there is no such project, 409 if it is archived or its
            quota of disk space is used up.
    """
    refuse_webhooks(specs, settings)
    if project != DEFAULT_PROJECT:
        with session_on(connection) as session:
            projects.refuse_closed(session, project)
    with session_on(connection) as session:
        quotas.refuse_full_disk(session, project)
    return planning.create(
        connection,
        uploads.resolve_uploads(connection, specs, locked=True),
        submitted_by=submitted_by,
        project=project,
        sweep=sweep,
        parent_id=parent_id,
        webhook=settings.webhook_url,
    )


def preview(session: Session, spec: ExperimentSpec, settings: Settings, *, draft: Mapping[str, Any]) -> Preview:
    """Return a preview of the runs that ``create`` would create.

    Raises:
        SpecError: The spec names an upload that does not exist or a webhook that is not allowed.
    """
    refuse_webhooks([("", spec)], settings)
    ((_, stored),) = uploads.resolve_uploads(session.connection(), [("", spec)])
    return planning.preview(session, spec, stored, draft)


def parse_many(data: Any) -> list[tuple[str, ExperimentSpec]]:
    """Parse the specs of ``{"experiments": […]}``.

    Returns:
        Pairs of the prefix of the spec's path in the request and the spec.

    Raises:
        SpecError: Contains the problems of all specs.
    """
    if not isinstance(data, dict) or not isinstance(data.get("experiments"), list):
        raise SpecError([Problem("experiments", "give a list of specs")])
    if unknown := [name for name in data if name != "experiments"]:
        raise SpecError([Problem(unknown[0], "unknown field")])
    items = data["experiments"]
    if not 1 <= len(items) <= MAX_EXPERIMENTS:
        text = f"give 1 to {MAX_EXPERIMENTS} specs in one request, not {len(items)}"
        raise SpecError([Problem("experiments", text)])
    specs: list[tuple[str, ExperimentSpec]] = []
    problems: list[Problem] = []
    refused = 0
    for index, item in enumerate(items):
        check_client_waits()
        prefix = f"experiments.{index}"
        try:
            specs.append((f"{prefix}.", parse_experiment(item)))
        except SpecError as error:
            problems += [
                Problem(f"{prefix}.{problem.path}" if problem.path else prefix, problem.message)
                for problem in error.problems
            ]
            refused += 1
            if refused == MAX_PROBLEMS or len(problems) > MAX_PROBLEMS:
                break
    if problems:
        raise SpecError(problems)
    refuse_too_many_runs([spec for _, spec in specs], "experiments")
    return specs


def refuse_too_many_runs(specs: Sequence[ExperimentSpec], path: str) -> None:
    """Refuse more runs than one request may create.

    Raises:
        SpecError: The specs have too many runs; the problem has the path ``path``.
    """
    count = sum(map(student_count, specs))
    if count > MAX_RUNS:
        raise SpecError([Problem(path, f"{count} runs are more than the {MAX_RUNS} that one request may create")])


def submitted_list(ids: Sequence[str], specs: Sequence[ExperimentSpec]) -> SubmittedExperiments:
    """Return the reply to a bulk submission or a sweep, without reading the database."""
    items = [
        SubmittedExperiment(id=key, name=spec.name, runs=student_count(spec) + len(spec.teacher_runs()))
        for key, spec in zip(ids, specs, strict=True)
    ]
    return SubmittedExperiments(items=items, runs=count_runs(specs))


def count_runs(specs: Sequence[ExperimentSpec]) -> int:
    """Return the number of runs of all specs; shared teachers are counted once."""
    teachers = {planned.spec.fingerprint() for spec in specs for planned in spec.teacher_runs()}
    return len(teachers) + sum(map(student_count, specs))


def cloned_spec(
    session: Session, experiment: Experiment, name: str | None, changes: Mapping[str, Any]
) -> ExperimentSpec:
    """Return the spec of an experiment with another name and changed fields.

    Args:
        session: A transaction.
        experiment: The experiment.
        name: The new name; None for the next free one.
        changes: New values by path.

    Raises:
        SpecError: The changed spec is not valid. Each problem has its path, ``changes.…`` for a changed field.
    """
    tags = select(ExperimentTag.tag).where(ExperimentTag.experiment_id == experiment.id).order_by(ExperimentTag.tag)
    # Notes and tags may have changed since the submission.
    current = {**experiment.spec, "notes": experiment.notes, "tags": list(session.scalars(tags))}
    data = detach_derived_fields(current, changes)
    problems: list[Problem] = []
    for path, value in changes.items():
        try:
            data = with_field(data, path, value)
        except SpecError as error:
            problems += [Problem(f"changes.{path}", problem.message) for problem in error.problems]
    if problems:
        raise SpecError(problems)
    if name is not None or "name" not in changes:
        data = with_fields(data, {"name": name or _free_name(session, _changed_name(experiment, changes))})
    return parse_experiment(data)


def _changed_name(experiment: Experiment, changes: Mapping[str, Any]) -> str:
    """Return the name with the new values of fields that a sweep wrote into it, as in ``search epochs=5``."""
    name = experiment.name
    if experiment.sweep:
        for path, value in changes.items():
            name = rename_swept(name, path, field_at(experiment.spec, path), value)
    return name if len(name) <= NAME_LENGTH else experiment.name


def _free_name(session: Session, name: str) -> str:
    """Return the name, with the first free number appended if the name is taken."""
    taken = set(session.scalars(select(Experiment.name).where(Experiment.name.startswith(name[:90], autoescape=True))))
    if name not in taken:
        return name
    number = 2
    while True:
        end = f" ({number})"
        candidate = name[: NAME_LENGTH - len(end)].rstrip() + end
        if candidate not in taken:
            return candidate
        number += 1
