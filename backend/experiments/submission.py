"""Making experiments out of a request: one, many, the points of a sweep, or an old one with changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend.api import idempotency
from backend.api.boundary import check_client_waits
from backend.artifacts import uploads
from backend.db.models import Experiment, ExperimentTag
from backend.errors import ApiError, conflict
from backend.experiments import planning
from backend.operations.webhooks import refuse_webhooks
from backend.settings import Settings
from backend.tokens import Principal
from common.input_bounds import MAX_PROBLEMS
from core.protocol.public import Preview
from core.protocol.submissions import MAX_EXPERIMENTS, MAX_RUNS, Submitted, SubmittedList
from core.specs import ExperimentSpec, Problem, SpecError, field_at, parse_experiment, released, with_field, with_fields
from core.specs.experiment import NAME_LENGTH
from core.specs.sweep import renamed


def create_once(
    connection: Connection, request: idempotency.KeyedRequest | None, make: Callable[[], list[str]]
) -> list[str]:
    """Ids of the experiments that ``make`` makes, or that the same request made before.

    Raises ApiError 409 where those have been deleted since, 422 where the key came with another body.
    """
    if request is None:
        return make()
    known = idempotency.find(connection, request)
    if known is None:
        try:
            made = make()
        except ApiError:
            # The same request, sent to another replica at the same moment, may have taken the name.
            known = idempotency.find(connection, request)
            if known is None:
                raise
        else:
            if not idempotency.remember(connection, request, made):
                raise idempotency.key_reused()
            return made
    if set(connection.scalars(select(Experiment.id).where(Experiment.id.in_(known[:1])))) != set(known[:1]):
        raise conflict("what this request made has been deleted since; send it with a new Idempotency-Key")
    return known


def create(
    connection: Connection,
    specs: Sequence[tuple[str, ExperimentSpec]],
    settings: Settings,
    *,
    submitted_by: str,
    sweep: str = "",
) -> list[str]:
    """Make the experiments, with what they name of this backend's own looked up. Raises SpecError, ApiError 422."""
    refuse_webhooks(specs, settings)
    return planning.create(
        connection,
        uploads.resolve_uploads(connection, specs),
        submitted_by=submitted_by,
        sweep=sweep,
        webhook=settings.webhook_url,
    )


def preview(session: Session, spec: ExperimentSpec, settings: Settings, *, draft: Mapping[str, Any]) -> Preview:
    """What ``create`` would make of a spec. Raises SpecError as it does, but for a name that is taken."""
    refuse_webhooks([("", spec)], settings)
    ((_, stored),) = uploads.resolve_uploads(session.connection(), [("", spec)])
    return planning.preview(session, spec, stored, draft)


def idempotency_request(principal: Principal, key: str | None, body_sha256: str) -> idempotency.KeyedRequest | None:
    return idempotency.KeyedRequest(principal.token_id, key, body_sha256) if key else None


def parse_many(data: Any) -> list[tuple[str, ExperimentSpec]]:
    """The specs of ``{"experiments": […]}``, each with its path. Raises SpecError with every problem of all of them."""
    if not isinstance(data, dict) or not isinstance(data.get("experiments"), list):
        raise SpecError([Problem("experiments", "give a list of specs")])
    if unknown := [name for name in data if name != "experiments"]:
        raise SpecError([Problem(unknown[0], "unknown field")])
    given = data["experiments"]
    if not 1 <= len(given) <= MAX_EXPERIMENTS:
        text = f"give 1 to {MAX_EXPERIMENTS} specs in one request, not {len(given)}"
        raise SpecError([Problem("experiments", text)])
    specs: list[tuple[str, ExperimentSpec]] = []
    problems: list[Problem] = []
    refused = 0
    for index, item in enumerate(given):
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
    """Raises SpecError where there would be more runs than one request may make."""
    count = sum(len(spec.seeds) * len(spec.methods) for spec in specs)
    if count > MAX_RUNS:
        raise SpecError([Problem(path, f"{count} runs are more than the {MAX_RUNS} of one request")])


def submitted_list(ids: Sequence[str], specs: Sequence[ExperimentSpec]) -> SubmittedList:
    """The answer to a bulk or a sweep; nothing is read for it."""
    items = [
        Submitted(id=key, name=spec.name, runs=len(spec.seeds) * len(spec.methods) + (spec.teacher_run() is not None))
        for key, spec in zip(ids, specs, strict=True)
    ]
    return SubmittedList(items=items, runs=count_runs(specs))


def count_runs(specs: Sequence[ExperimentSpec]) -> int:
    """Over all of them, shared teachers counted once."""
    teachers = {teacher.fingerprint() for spec in specs if (teacher := spec.teacher_run())}
    return len(teachers) + sum(len(spec.seeds) * len(spec.methods) for spec in specs)


def cloned_spec(
    session: Session, experiment: Experiment, name: str | None, changes: Mapping[str, Any]
) -> ExperimentSpec:
    """The spec of an experiment under another name, with fields changed.

    Raises SpecError with the path of each problem, the changed fields' own.
    """
    tags = select(ExperimentTag.tag).where(ExperimentTag.experiment_id == experiment.id).order_by(ExperimentTag.tag)
    # Notes and tags as they are by now, which may not be as they were submitted.
    known = {**experiment.spec, "notes": experiment.notes, "tags": list(session.scalars(tags))}
    data = released(known, changes)
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
    """The name with what a sweep wrote into it of the fields that change: ``search epochs=5`` says so of 5 epochs."""
    name = experiment.name
    if experiment.sweep:
        for path, value in changes.items():
            name = renamed(name, path, field_at(experiment.spec, path), value)
    return name if len(name) <= NAME_LENGTH else experiment.name


def _free_name(session: Session, name: str) -> str:
    """The name, with the first number that is free behind it where it is taken."""
    taken = set(session.scalars(select(Experiment.name).where(Experiment.name.startswith(name[:90], autoescape=True))))
    if name not in taken:
        return name
    number = 2
    while True:
        end = f" ({number})"
        found = name[: NAME_LENGTH - len(end)].rstrip() + end
        if found not in taken:
            return found
        number += 1
