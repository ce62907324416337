"""Complete records of runs and experiments, for reproduction and for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import run_data
from backend.db import chunked, models
from backend.errors import not_found
from backend.experiments.serializers import RECORD_ONLY_KEYS, attempt_shape
from common.report_bounds import fit_environment
from core.protocol.records import ExperimentRecord, RunRecord, TeacherRecord
from core.specs import editable_copy


def run_record(session: Session, run_id: str) -> RunRecord:
    """Return the record of a run.

    Raises:
        ApiError: 404 if there is no such run.
    """
    run = session.get(models.Run, run_id)
    if run is None:
        raise not_found("run", run_id)
    link, experiment = models.ExperimentRun, models.Experiment
    query = select(experiment, link.label).join(link, link.experiment_id == experiment.id)
    row = session.execute(query.where(link.run_id == run.id).order_by(experiment.id)).first()
    return _records(session, [(run, row[1] if row else run.label)], row[0] if row else None)[0]


def experiment_record(session: Session, experiment: models.Experiment) -> ExperimentRecord:
    """Return the record of an experiment with all its runs, in the order of its plan."""
    link = models.ExperimentRun
    query = select(models.Run, link.label).join(link, link.run_id == models.Run.id)
    rows = session.execute(query.where(link.experiment_id == experiment.id).order_by(link.position)).all()
    return ExperimentRecord(
        experiment_id=experiment.id,
        name=experiment.name,
        spec=experiment.spec,
        created_at=experiment.created_at,
        runs=_records(session, [(run, label) for run, label in rows], experiment),
    )


def run_rows(record: ExperimentRecord) -> list[dict[str, Any]]:
    """Return one CSV row per run: its identity, state, and the last value of every metric."""
    return [
        {
            "experiment": record.name,
            "run_id": run.run_id,
            "label": run.label,
            "role": run.spec["role"],
            "method": run.spec["method"]["name"],
            "dataset": run.spec["dataset"]["name"],
            "model": run.spec["model"]["name"],
            "seed": run.spec["seed"],
            "state": run.state,
            "reason": run.reason,
            "fingerprint": run.fingerprint,
            "teacher_run_id": run.teacher.run_id if run.teacher else "",
            "commit": run.commit,
            "started_at": run.started_at.isoformat() if run.started_at else "",
            "ended_at": run.ended_at.isoformat() if run.ended_at else "",
            **{name: run.metrics[name] for name in sorted(run.metrics)},
        }
        for run in record.runs
    ]


def _records(
    session: Session, runs: Sequence[tuple[models.Run, str]], experiment: models.Experiment | None
) -> list[RunRecord]:
    """Return the records of runs, with a few queries for all of them together."""
    ids = [run.id for run, _ in runs]
    latest_values = run_data.latest(session, ids, None)
    attempts: dict[str, list[models.Attempt]] = {}
    for chunk in chunked(ids):
        query = select(models.Attempt).where(models.Attempt.run_id.in_(chunk)).order_by(models.Attempt.number)
        for attempt in session.scalars(query):
            attempts.setdefault(attempt.run_id, []).append(attempt)
    teachers: dict[str, models.Run] = {}
    for chunk in chunked({run.teacher_run_id for run, _ in runs if run.teacher_run_id}):
        teachers |= {run.id: run for run in session.scalars(select(models.Run).where(models.Run.id.in_(chunk)))}
    return [
        _record(
            run,
            label,
            experiment,
            teachers.get(run.teacher_run_id or ""),
            attempts.get(run.id, []),
            {name: point.value for name, point in latest_values.get(run.id, {}).items()},
        )
        for run, label in runs
    ]


def _record(
    run: models.Run,
    label: str,
    experiment: models.Experiment | None,
    teacher: models.Run | None,
    attempts: Sequence[models.Attempt],
    metrics: Mapping[str, float],
) -> RunRecord:
    environment: dict[str, str] = run.environment
    return RunRecord(
        run_id=run.id,
        label=label,
        state=run.state,
        reason=run.reason,
        experiment=experiment.name if experiment else "",
        spec=run.spec,
        fingerprint=run.fingerprint,
        repeat=_repeat(run, label, experiment) if experiment else None,
        teacher=_teacher_record(teacher) if teacher else None,
        environment=fit_environment(
            {key: value for key, value in environment.items() if key not in (*RECORD_ONLY_KEYS, "commit")}
        ),
        packages=environment.get("packages", "").splitlines(),
        commit=environment.get("commit", ""),
        diff=environment.get("diff", ""),
        attempts=[attempt_shape(attempt) for attempt in attempts],
        parameters=run.parameters,
        train_size=run.train_size,
        test_size=run.test_size,
        weights=run.weights_path,
        weights_sha256=run.weights_sha256,
        metrics=dict(metrics),
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
    )


def _repeat(run: models.Run, label: str, experiment: models.Experiment) -> dict[str, Any] | None:
    """Return the experiment's spec reduced to this run; None for a teacher, which its students need anyway."""
    if run.role == "teacher":
        return None
    choices = [choice for choice in experiment.spec["methods"] if choice["label"] == label]
    name = f"{experiment.name[:60]}, {label[:20]} seed {run.seed}"
    return editable_copy(experiment.spec | {"name": name, "methods": choices, "seeds": [run.seed]})


def _teacher_record(run: models.Run) -> TeacherRecord:
    return TeacherRecord(
        run_id=run.id,
        fingerprint=run.fingerprint,
        spec=run.spec,
        weights=run.weights_path,
        weights_sha256=run.weights_sha256,
    )
