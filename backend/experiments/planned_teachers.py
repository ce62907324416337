"""Which teacher a spec asks for: one that exists, or a new one, and in which fields it differs from the nearest."""

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
from core.protocol.public import FieldDifference, PlannedTeacher, ProblemField
from core.specs import ExperimentSpec, RunSpec

MOST_SHOWN = 20
"""Teachers that the preview of a sweep lists."""
_LOOKED_AT = 200
"""Newest teachers of a data set among which the nearest one is looked for."""
_NAMED = 6
"""Differences that the sentence names; the list has all of them."""
_TOP1 = "test/top1"


def plan_teacher(session: Session, spec: ExperimentSpec) -> PlannedTeacher | None:
    """The teacher of one spec; None where no method needs one."""
    found = plan_teachers(session, [spec], MOST_SHOWN)[0]
    return found[0] if found else None


def plan_teachers(
    session: Session, specs: Iterable[ExperimentSpec], most: int
) -> tuple[list[PlannedTeacher], int, int]:
    """The teachers of several specs, each once: the first ``most`` of them, how many there are, how many are new."""
    wanted: dict[str, tuple[ExperimentSpec, RunSpec]] = {}
    for spec in specs:
        if run := spec.teacher_run():
            wanted.setdefault(run.fingerprint(), (spec, run))
    known = _live(session, list(wanted))
    candidates: dict[str, Sequence[Any]] = {}
    shown = []
    for fingerprint, (spec, run) in list(wanted.items())[:most]:
        if fingerprint in known:
            shown.append(_existing(session, run, fingerprint, known[fingerprint]))
            continue
        name = run.dataset.name
        if name not in candidates:
            candidates[name] = _of_data_set(session, name)
        shown.append(_new(spec, run, fingerprint, candidates[name], _failed(session, fingerprint)))
    return shown, len(wanted), len(wanted) - len(known)


def varied_teacher_warnings(specs: Sequence[ExperimentSpec]) -> list[ProblemField]:
    """Said of a sweep whose experiments train a teacher each because the students' training varies."""
    trainings: dict[str, set[str]] = {}
    for spec in specs:
        run = spec.teacher_run()
        if run and spec.teacher and spec.teacher.training is None:
            content = run.model_dump(mode="json")
            training = content.pop("training")
            trainings.setdefault(repr(sorted(content.items())), set()).add(repr(training))
    most = max(map(len, trainings.values()), default=0)
    if most < 2:
        return []
    text = (
        f"the teacher is trained as the students are, so that {most} different trainings of theirs make {most} "
        "teachers; give the sweep's experiment a complete training, or teacher.training, to compare under one"
    )
    return [ProblemField(path="teacher.training", message=text)]


def _live(session: Session, fingerprints: Sequence[str]) -> dict[str, Any]:
    query = select(Run.id, Run.fingerprint, Run.state).where(LIVE_TEACHER)
    return {
        row.fingerprint: row
        for some in chunked(fingerprints)
        for row in session.execute(query.where(Run.fingerprint.in_(some)))
    }


def _of_data_set(session: Session, dataset: str) -> Sequence[Any]:
    query = select(Run.id, Run.model, Run.spec).where(LIVE_TEACHER, Run.dataset == dataset)
    return session.execute(query.order_by(Run.id.desc()).limit(_LOOKED_AT)).all()


def _failed(session: Session, fingerprint: str) -> Any:
    """The newest try at the same teacher that did not succeed."""
    query = select(Run.id, Run.state).where(Run.role == "teacher", Run.fingerprint == fingerprint, ~LIVE_TEACHER)
    return session.execute(query.order_by(Run.id.desc()).limit(1)).first()


def _existing(session: Session, run: RunSpec, fingerprint: str, there: Any) -> PlannedTeacher:
    top1 = _accuracy(session, there.id)
    state = there.state
    how = f"{state}, {top1:.2f} %" if state == "succeeded" and top1 is not None else state
    text = f"The teacher is run {there.id} ({_described(run)}; {how}): it is used as it is, and none is trained."
    return _planned(run, fingerprint, text, run_id=there.id, state=state, top1=top1)


def _new(
    spec: ExperimentSpec, run: RunSpec, fingerprint: str, candidates: Sequence[Any], failed: Any
) -> PlannedTeacher:
    how = f"A new teacher is made ({_described(run)})"
    if failed is not None:
        text = f"{how}: the same one, run {failed.id}, {failed.state}."
        return _planned(run, fingerprint, text)
    wanted = run.model_dump(mode="json")
    compared = [(there, _differences(wanted, there.spec)) for there in candidates]
    if not compared:
        return _planned(run, fingerprint, f"{how}: there is none on {run.dataset.name} yet.")
    # One of another network is no substitute, however few its other differences.
    there, apart = min(compared, key=lambda item: (item[0].model != run.model.name, len(item[1])))
    fields = [
        FieldDifference(path=_in_spec(path, spec), here=here, there=other) for path, (here, other) in apart.items()
    ]
    if there.model != run.model.name:
        text = f"{how}: there is no {run.model.name} on {run.dataset.name} yet."
        return _planned(run, fingerprint, text, nearest=there.id, differences=fields)
    named = ", ".join(f"{item.path} ({_value(item.here)} here, {_value(item.there)} there)" for item in fields[:_NAMED])
    more = f" and {len(fields) - _NAMED} more fields" if len(fields) > _NAMED else ""
    text = f"{how}: the nearest there is, run {there.id}, differs in {named}{more}."
    if any(item.path.startswith("training") for item in fields):
        text += (
            " It is trained as the students are, since the spec has no teacher.training; write that out to keep the "
            "teacher while the students' training changes."
        )
    return _planned(run, fingerprint, text, nearest=there.id, differences=fields)


def _planned(run: RunSpec, fingerprint: str, sentence: str, **more: Any) -> PlannedTeacher:
    return PlannedTeacher(
        fingerprint=fingerprint,
        model=run.model.name,
        dataset=run.dataset.name,
        seed=run.seed,
        epochs=run.training.epochs if _trains(run) else 0,
        sentence=sentence,
        **more,
    )


def _described(run: RunSpec) -> str:
    how = f"{run.training.epochs} epochs" if run.training.epochs != 1 else "1 epoch"
    if run.weights:
        how = f"{how} from {run.weights.source}" if run.weights.fine_tune else f"weights of {run.weights.source}"
    return f"{run.model.name} on {run.dataset.name}, seed {run.seed}, {how}"


def _trains(run: RunSpec) -> bool:
    return run.weights is None or run.weights.fine_tune


def _accuracy(session: Session, run_id: str) -> float | None:
    name = select(MetricName.id).where(MetricName.name == _TOP1).scalar_subquery()
    query = select(MetricLatest.value, MetricLatest.kind)
    found = session.execute(query.where(MetricLatest.run_id == run_id, MetricLatest.name_id == name, HAS_VALUE)).first()
    value = decode(*found) if found else None
    return value if value is not None and math.isfinite(value) else None


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields of two runs' specs that differ, by path, each with its two values. The method's label is none."""
    try:
        # A spec that was stored before a field existed has its default.
        filled = RunSpec.model_validate(there).model_dump(mode="json")
    except ValueError:
        filled = dict(there)
    return {
        path: values
        for path, values in _apart(here, filled, "").items()
        if not path.startswith("method.") and path != "data_seed"
    }


def _apart(here: Any, there: Any, path: str) -> dict[str, tuple[Any, Any]]:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*here, *there]):
            found |= _apart(here.get(key), there.get(key), f"{path}.{key}" if path else str(key))
        return found
    return {} if here == there else {path: (here, there)}


def _in_spec(path: str, spec: ExperimentSpec) -> str:
    """Where an experiment's spec has what its teacher's run has at this path."""
    part = path.partition(".")[0]
    if part == "dataset":
        return path
    if part == "training" and spec.teacher is not None and spec.teacher.training is None:
        return path
    return f"teacher.{path}"


def _value(value: Any) -> str:
    return "none" if value is None else str(value)
