"""The teacher that a spec needs: an existing one, or a new one and how it differs from the most similar teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import chunked
from backend.db.models import MetricLatest, MetricName, Run
from backend.metrics.point_store import HAS_VALUE, decode
from backend.queue.teachers import LIVE_TEACHER
from common.formatting import value_text
from core.catalog import METRICS
from core.protocol.public import FieldDifference, PlannedTeacher, ProblemField
from core.specs import ExperimentSpec, PlannedRun, RunSpec

MAX_PREVIEWED = 20
"""Maximum number of teachers in the preview of a sweep."""
_MAX_CANDIDATES = 200
"""Number of newest teachers of a data set among which the most similar one is searched."""
_MAX_NAMED = 6
"""Maximum number of differences that the sentence names; the list has all of them."""


def plan_teachers(
    session: Session, specs: Iterable[ExperimentSpec], limit: int
) -> tuple[list[PlannedTeacher], int, int]:
    """Return the distinct teachers of several specs, each after its own teacher.

    Args:
        session: A read transaction.
        specs: The specs.
        limit: Maximum number of teachers to return.

    Returns:
        The first ``limit`` teachers, the number of all teachers, and the number of new ones.
    """
    requested: dict[str, tuple[ExperimentSpec, PlannedRun]] = {}
    for spec in specs:
        for run in spec.teacher_runs():
            requested.setdefault(run.spec.fingerprint(), (spec, run))
    live = _live_teachers(session, list(requested))
    candidates: dict[str, Sequence[Any]] = {}
    planned = []
    for fingerprint, (spec, run) in list(requested.items())[:limit]:
        if fingerprint in live:
            planned.append(_describe_existing(session, run.spec, fingerprint, live[fingerprint]))
            continue
        name = run.spec.dataset.name
        if name not in candidates:
            candidates[name] = _candidates(session, name)
        planned.append(_describe_new(spec, run, fingerprint, candidates[name], _last_failed(session, fingerprint)))
    return planned, len(requested), len(requested) - len(live)


def varied_teacher_warnings(specs: Sequence[ExperimentSpec]) -> list[ProblemField]:
    """Return a warning for a sweep that trains a teacher per experiment because the students' training varies."""
    trainings: dict[str, set[str]] = {}
    for spec in specs:
        run = spec.teacher_run()
        if run and spec.teacher and spec.teacher.training is None:
            content = run.model_dump(mode="json")
            training = content.pop("training")
            trainings.setdefault(repr(sorted(content.items())), set()).add(repr(training))
    count = max(map(len, trainings.values()), default=0)
    if count < 2:
        return []
    text = (
        f"the teacher is trained like the students, so that their {count} different trainings need {count} teachers; "
        "give the sweep's experiment a complete training, or teacher.training, to compare them under one teacher"
    )
    return [ProblemField(path="teacher.training", message=text)]


def _live_teachers(session: Session, fingerprints: Sequence[str]) -> dict[str, Any]:
    query = select(Run.id, Run.fingerprint, Run.state).where(LIVE_TEACHER)
    return {
        row.fingerprint: row
        for chunk in chunked(fingerprints)
        for row in session.execute(query.where(Run.fingerprint.in_(chunk)))
    }


def _candidates(session: Session, dataset: str) -> Sequence[Any]:
    query = select(Run.id, Run.model, Run.spec).where(LIVE_TEACHER, Run.dataset == dataset)
    return session.execute(query.order_by(Run.id.desc()).limit(_MAX_CANDIDATES)).all()


def _last_failed(session: Session, fingerprint: str) -> Any:
    """Return the newest run of the same teacher that failed or was cancelled."""
    query = select(Run.id, Run.state).where(Run.role == "teacher", Run.fingerprint == fingerprint, ~LIVE_TEACHER)
    return session.execute(query.order_by(Run.id.desc()).limit(1)).first()


def _describe_existing(session: Session, run: RunSpec, fingerprint: str, candidate: Any) -> PlannedTeacher:
    headline = run.dataset.headline
    top1 = _latest_value(session, candidate.id, headline)
    state = candidate.state
    score = value_text(top1, METRICS[headline].unit, 2)
    description = f"{state}, {score}" if state == "succeeded" and top1 is not None else state
    text = (
        f"The teacher is run {candidate.id} ({_run_text(run)}; {description}): this run is used, and no teacher is "
        "trained."
    )
    return _planned_teacher(run, fingerprint, text, run_id=candidate.id, state=state, top1=top1)


def _describe_new(
    spec: ExperimentSpec, planned: PlannedRun, fingerprint: str, candidates: Sequence[Any], failed: Any
) -> PlannedTeacher:
    run = planned.spec
    description = f"A new teacher is trained ({_run_text(run)})"
    if failed is not None:
        ending = "was cancelled" if failed.state == "cancelled" else "failed"
        text = f"{description}: the previous one, run {failed.id}, {ending}."
        return _planned_teacher(run, fingerprint, text)
    requested = run.model_dump(mode="json")
    candidates_with_differences = [(candidate, _differences(requested, candidate.spec)) for candidate in candidates]
    if not candidates_with_differences:
        return _planned_teacher(run, fingerprint, f"{description}: there is no teacher on {run.dataset.name} yet.")
    # A teacher with the same network is preferred, even if it has more differences than a teacher with another network.
    candidate, differing = min(
        candidates_with_differences, key=lambda item: (item[0].model != run.model.name, len(item[1]))
    )
    fields = [
        FieldDifference(path=_path_in_spec(path, spec, planned.path), here=requested_value, there=other)
        for path, (requested_value, other) in differing.items()
    ]
    if candidate.model != run.model.name:
        text = f"{description}: there is no {run.model.name} on {run.dataset.name} yet."
        return _planned_teacher(run, fingerprint, text, nearest=candidate.id, differences=fields)
    difference_text = ", ".join(
        f"{item.path} ({_value_text(item.here)} here, {_value_text(item.there)} there)" for item in fields[:_MAX_NAMED]
    )
    more = f" and {len(fields) - _MAX_NAMED} more fields" if len(fields) > _MAX_NAMED else ""
    text = f"{description}: the most similar one, run {candidate.id}, differs in {difference_text}{more}."
    if len(planned.path) == 1 and any(item.path.startswith("training") for item in fields):
        text += (
            " It is trained like the students, since the spec has no teacher.training; set teacher.training to keep "
            "the teacher when the students' training changes."
        )
    return _planned_teacher(run, fingerprint, text, nearest=candidate.id, differences=fields)


def _planned_teacher(run: RunSpec, fingerprint: str, sentence: str, **more: Any) -> PlannedTeacher:
    return PlannedTeacher(
        fingerprint=fingerprint,
        model=run.model.name,
        dataset=run.dataset.name,
        seed=run.seed,
        epochs=run.training.epochs if _is_trained(run) else 0,
        sentence=sentence,
        **more,
    )


def _run_text(run: RunSpec) -> str:
    description = f"{run.training.epochs} epochs" if run.training.epochs != 1 else "1 epoch"
    if run.weights:
        description = (
            f"{description} from {run.weights.source}" if run.weights.fine_tune else f"weights of {run.weights.source}"
        )
    if run.teacher:
        description = f"{description} with {run.method.name}"
    return f"{run.model.name} on {run.dataset.name}, seed {run.seed}, {description}"


def _is_trained(run: RunSpec) -> bool:
    return run.weights is None or run.weights.fine_tune


def _latest_value(session: Session, run_id: str, metric: str) -> float | None:
    name = select(MetricName.id).where(MetricName.name == metric).scalar_subquery()
    query = select(MetricLatest.value, MetricLatest.kind)
    row = session.execute(query.where(MetricLatest.run_id == run_id, MetricLatest.name_id == name, HAS_VALUE)).first()
    value = decode(*row) if row else None
    return value if value is not None and math.isfinite(value) else None


def _differences(requested_value: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the differing fields of two runs' specs as path → (requested value, candidate's value)."""
    try:
        # A spec that was stored before a field existed gets the default.
        completed = RunSpec.model_validate(candidate).model_dump(mode="json")
    except ValueError:
        completed = dict(candidate)
    return {
        path: values
        for path, values in _differing_fields(requested_value, completed, "").items()
        if path not in ("method.label", "data_seed")
    }


def _differing_fields(requested_value: Any, candidate: Any, path: str) -> dict[str, tuple[Any, Any]]:
    if isinstance(requested_value, Mapping) and isinstance(candidate, Mapping):
        differing: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*requested_value, *candidate]):
            differing |= _differing_fields(
                requested_value.get(key), candidate.get(key), f"{path}.{key}" if path else str(key)
            )
        return differing
    return {} if requested_value == candidate else {path: (requested_value, candidate)}


def _path_in_spec(path: str, spec: ExperimentSpec, teacher: tuple[int | str, ...]) -> str:
    """Return the path in an experiment's spec of the field at ``path`` of the run of a teacher."""
    part = path.partition(".")[0]
    if part == "dataset":
        return path
    if part == "training" and dict(spec.all_teachers())[teacher].training is None:
        return path
    return ".".join(map(str, (*teacher, path)))


def _value_text(value: Any) -> str:
    return "none" if value is None else str(value)
