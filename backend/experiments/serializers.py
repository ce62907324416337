"""Converts rows of runs and experiments to the API's models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, false, func, inspect, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from backend.db import headlines, models
from backend.db.models import Experiment, ExperimentRun, ExperimentTag, MetricLatest, MetricName, Run
from backend.errors import not_found
from backend.experiments.planning import CreatedExperiment, warnings_as_fields
from backend.metrics import log_store, point_store
from backend.people import rights
from backend.queue.archived import is_shown
from backend.queue.wait_reasons import WaitReasons
from common.report_bounds import MAX_LINE, fit_environment, fit_text
from core.protocol import public
from core.protocol.public import TERMINAL
from core.specs import parse_stored_experiment, problems_of, student_title, teacher_title, warnings_of
from core.specs.labels import misleading_label_of
from core.tuning.choice import Choice

RECORD_ONLY_KEYS = ("packages", "diff")
"""Keys of a run's environment whose values are too long for lists and pages; only the run's record has them."""
TRAINING_LOSS = "train/loss"
_TAIL_LINES = 40


# Rows instead of objects: reading a page of runs takes a third of the time.
_SHOWN = (
    *(Run.id, Run.role, Run.experiment_id, Run.state, Run.reason, Run.dataset, Run.model, Run.method),
    *(Run.seed, Run.teacher_run_id, Run.priority, Run.pausing, Run.attempt, Run.step, Run.total_steps, Run.epoch),
    *(Run.total_epochs, Run.created_at, Run.started_at, Run.ended_at, Run.device, Run.gpus, Run.labels, Run.lane_id),
    Run.test_size,
)


def _runs_labelled(label: InstrumentedAttribute[str], trial: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    experiment, project = Experiment.name.label("experiment"), Experiment.project.label("project")
    worker = models.Attempt.worker_name.label("worker")
    # The first experiment is joined already; others are looked for only if that is archived.
    archived = (Experiment.archived_at.is_not(None) & ~is_shown()).label("archived")
    return (
        select(*_SHOWN, label.label("label"), trial.label("trial"), experiment, project, worker, archived)
        .select_from(Run)
        .outerjoin(Experiment, Experiment.id == Run.experiment_id)
        .outerjoin(models.Attempt, (models.Attempt.run_id == Run.id) & (models.Attempt.number == Run.attempt))
    )


RUN_QUERY = _runs_labelled(Run.label, false())
"""The columns of a run summary, with the experiment's name and the worker of the newest attempt."""
_INITIAL = {
    column.key: column.default.arg if isinstance(column.default, ScalarElementColumnDefault) else None
    for column in inspect(Run).local_table.columns
}
"""The values in the row of a new run that ``planning`` leaves to their defaults."""
_OF_IDS = RUN_QUERY.where(Run.id.in_(bindparam("runs", expanding=True)))
_PLANNED = (
    _runs_labelled(
        ExperimentRun.label, ExperimentRun.trial.expression
    )  # a shared teacher may have another label in another experiment
    .join(ExperimentRun, ExperimentRun.run_id == Run.id)
    .where(ExperimentRun.experiment_id == bindparam("experiment"))
    .order_by(ExperimentRun.position)
)
_HEADLINES_OF = (
    select(
        MetricLatest.run_id,
        MetricName.name,
        MetricLatest.value,
        MetricLatest.kind,
        MetricLatest.step,
        MetricLatest.epoch,
    )
    .join(MetricName, MetricName.id == MetricLatest.name_id)
    .where(MetricLatest.run_id.in_(bindparam("runs", expanding=True)))
    .where(MetricName.name.in_(bindparam("names", expanding=True)))
    .where(point_store.HAS_VALUE)
)
_EXPERIMENT = select(inspect(Experiment).local_table).where(Experiment.id == bindparam("experiment"))
_TAGS_OF = select(ExperimentTag.experiment_id, ExperimentTag.tag).where(
    ExperimentTag.experiment_id.in_(bindparam("experiments", expanding=True))
)


def rows_of_runs(connection: Connection, run_ids: Iterable[str]) -> Sequence[Any]:
    """Return the rows of these runs, in any order."""
    return connection.execute(_OF_IDS, {"runs": [*run_ids]}).all()


def run_summaries(connection: Connection, rows: Sequence[Any]) -> list[public.RunSummary]:
    """Return summaries of rows of ``RUN_QUERY``, in their order."""
    latest = _latest(connection, [row.id for row in rows if row.attempt])  # runs without an attempt have no metrics
    reasons = WaitReasons.read(connection)
    return [public.RunSummary(**_summary(row, latest.get(row.id, {}), reasons)) for row in rows]


def full_run(session: Session, run_id: str) -> public.Run | None:
    """Return one run with all details; None if there is no such run."""
    connection = session.connection()
    # The summary first: a run that ends meanwhile must not have the state of its end without its weights.
    summaries = run_summaries(connection, rows_of_runs(connection, [run_id]))
    run = session.get(Run, run_id)
    if run is None or not summaries:
        return None
    attempts = session.scalars(
        select(models.Attempt).where(models.Attempt.run_id == run_id).order_by(models.Attempt.number)
    )
    links = select(ExperimentRun.experiment_id).where(ExperimentRun.run_id == run_id)
    return public.Run(
        **dict(summaries[0]),
        spec=run.spec,
        fingerprint=run.fingerprint,
        experiments=list(session.scalars(links.order_by(ExperimentRun.experiment_id))),
        attempts=[attempt_shape(attempt) for attempt in attempts],
        environment=fit_environment(
            {key: run.environment[key] for key in run.environment if key not in RECORD_ONLY_KEYS}
        ),
        parameters=run.parameters,
        train_size=run.train_size,
        weights=run.weights_path,
        log_tail=_log_tail(session, run),
        warnings=_run_warnings(run),
    )


def _run_warnings(run: Run) -> list[public.ProblemField]:
    choice: dict[str, Any] = run.spec["method"]
    text = misleading_label_of(choice) if run.role == "student" else None
    return [public.ProblemField(path="method.label", message=text)] if text else []


def attempt_shape(attempt: models.Attempt) -> public.AttemptInfo:
    """Convert an attempt's row."""
    return public.AttemptInfo(
        number=attempt.number,
        worker=attempt.worker_name,
        host=attempt.host,
        device=fit_text(attempt.device, MAX_LINE),
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome,
        reason=attempt.reason,
    )


def _log_tail(session: Session, run: Run) -> list[str]:
    """Return the lines that the worker sent with the failure; after lost attempts the last log lines."""
    if run.log_tail or run.state != "failed":
        return [fit_text(line, MAX_LINE) for line in run.log_tail]
    return [
        line.message for line in log_store.read(session, run.id, log_store.LogFilter(), _TAIL_LINES, _TAIL_LINES).lines
    ]


def experiment_summaries(session: Session, experiments: Sequence[Experiment]) -> list[public.ExperimentSummary]:
    """Return summaries of experiments with the counts of their runs, from a few queries for all of them."""
    counts = _counts(session, [experiment.id for experiment in experiments])
    tags = _tags(session.connection(), list(counts))
    return [
        public.ExperimentSummary(**_experiment(experiment, counts[experiment.id], tags.get(experiment.id, [])))
        for experiment in experiments
    ]


def experiment_row(connection: Connection, experiment_id: str) -> Any:
    """Return the row of an experiment for ``full_experiment``.

    Raises:
        ApiError: 404 if there is no such experiment.
    """
    row = connection.execute(_EXPERIMENT, {"experiment": experiment_id}).one_or_none()
    if row is None:
        raise not_found("experiment", experiment_id)
    return row


def full_experiment(connection: Connection, experiment: Any) -> public.Experiment:
    """Return an experiment with its runs, in the order of its plan.

    Args:
        connection: A transaction.
        experiment: The experiment's row.
    """
    runs = run_summaries(connection, connection.execute(_PLANNED, {"experiment": experiment.id}).all())
    tags = _tags(connection, [experiment.id]).get(experiment.id, [])
    return _with_runs(experiment, runs, tags, _stored_warnings(experiment.spec))


def created_experiment(connection: Connection, created: CreatedExperiment) -> public.Experiment:
    """Return the result of ``full_experiment``, from the rows that this transaction has just written.

    Only teachers are read, since another experiment may have created them.
    """
    experiment, trial = SimpleNamespace(**created.row, archived_at=None, choice=None), created.spec.tune is not None
    teacher_ids = [row["id"] for row in created.runs if row["role"] == "teacher"]
    teachers = {row.id: row for row in rows_of_runs(connection, teacher_ids)} if teacher_ids else {}
    rows = [
        SimpleNamespace(**{**teachers[row["id"]]._mapping, "label": row["label"], "trial": trial})
        if row["id"] in teachers
        else SimpleNamespace(
            **(_INITIAL | row),
            experiment=experiment.name,
            project=experiment.project,
            worker=None,
            trial=trial,
            archived=False,
        )
        for row in created.runs
    ]
    warnings = warnings_as_fields(warnings_of(created.spec))
    return _with_runs(experiment, run_summaries(connection, rows), sorted(set(created.spec.tags)), warnings)


def _with_runs(
    experiment: Any, runs: list[public.RunSummary], tags: list[str], warnings: list[public.ProblemField]
) -> public.Experiment:
    return public.Experiment(
        **_experiment(experiment, _counts_of_runs(runs), tags),
        spec=experiment.spec,
        runs=runs,
        warnings=warnings,
        choice=_choice(experiment.choice),
    )


def _choice(stored: dict[str, Any] | None) -> public.SettingsChoice | None:
    if stored is None:
        return None
    if "error" in stored:
        return public.SettingsChoice(error=stored["error"])
    return public.SettingsChoice(**stored, sentences=Choice.from_json(stored).sentences())


def _stored_warnings(spec: dict[str, Any]) -> list[public.ProblemField]:
    try:
        return warnings_as_fields(warnings_of(parse_stored_experiment(spec)))
    except ValidationError as error:  # such as an entry of a plugin that is no longer loaded
        text = "this backend cannot parse the stored spec; it is shown unchanged"
        return [public.ProblemField(path=item.path, message=f"{text}: {item.message}") for item in problems_of(error)]


def _reason(run: Any, reasons: WaitReasons) -> str:
    """Return why a run failed, was requeued or does not start."""
    if run.state == "waiting":
        return f"waits for its teacher (run {run.teacher_run_id})"
    if run.pausing:
        return "is being paused: its worker writes a checkpoint and returns it to the queue"
    if run.state == "queued":
        return "; ".join(filter(None, (run.reason, reasons.of(run))))
    return str(run.reason)


def _summary(run: Any, latest: dict[str, public.MetricValue], reasons: WaitReasons) -> dict[str, Any]:
    # The experiment that first used a shared teacher may be in a project that the sender does not see.
    visible = run.experiment is not None and rights.sees(run.project)
    return {
        "id": run.id,
        "label": run.label,
        "role": run.role,
        "experiment_id": run.experiment_id if visible else "",
        "experiment": run.experiment if visible else "",
        "state": run.state,
        "reason": _reason(run, reasons),
        "dataset": run.dataset,
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "teacher_run_id": run.teacher_run_id,
        "priority": run.priority,
        "pausing": run.pausing,
        "attempt": run.attempt,
        "worker": run.worker or "",
        "step": run.step,
        "total_steps": run.total_steps,
        "epoch": run.epoch,
        "total_epochs": run.total_epochs,
        "headline": headlines.headline(run.dataset, latest),
        "latest": latest,
        "trial": run.trial,
        "archived": bool(run.archived),
        "test_size": run.test_size,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }


def _latest(connection: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, public.MetricValue]]:
    latest: dict[str, dict[str, public.MetricValue]] = {}
    names = [*headlines.all_headlines(), TRAINING_LOSS]
    rows = connection.execute(_HEADLINES_OF, {"runs": run_ids, "names": names}) if run_ids else ()
    for run_id, name, value, kind, step, epoch in rows:
        number = point_store.decode(value, kind)
        finite_epoch = epoch if math.isfinite(epoch) else 0.0
        point = public.MetricValue.model_construct(value=number, step=step, epoch=finite_epoch)
        latest.setdefault(run_id, {})[name] = point
    return latest


def _counts_of_runs(runs: Sequence[public.RunSummary]) -> dict[str, Any]:
    """Return the counts of an experiment from its runs, in the form of ``_counts``, without another query."""
    return {
        "states": dict(Counter(run.state for run in runs)),
        "done": float(sum(run.total_epochs if run.state == "succeeded" else run.epoch for run in runs)),
        "all": float(sum(run.total_epochs for run in runs)),
        "ended_at": max((run.ended_at for run in runs if run.ended_at is not None), default=None),
    }


def _counts(session: Session, experiment_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return for each experiment its runs' states, its completed and planned epochs, and the end of its last run."""
    counts: dict[str, dict[str, Any]] = {
        key: {"states": {}, "done": 0.0, "all": 0.0, "ended_at": None} for key in experiment_ids
    }
    # Weighted by epochs, which are known before a run starts; steps are not.
    done: ColumnElement[float] = case((Run.state == "succeeded", Run.total_epochs), else_=Run.epoch)
    query = (
        select(
            ExperimentRun.experiment_id,
            Run.state,
            func.count(),
            func.sum(done),
            func.sum(Run.total_epochs),
            func.max(Run.ended_at),
        )
        .join(Run, Run.id == ExperimentRun.run_id)
        .where(ExperimentRun.experiment_id.in_(counts))
        .group_by(ExperimentRun.experiment_id, Run.state)
    )
    for key, state, count, epochs, total, ended_at in session.execute(query):
        entry = counts[key]
        entry["states"][state] = count
        entry["done"] += float(epochs)
        entry["all"] += float(total)
        if ended_at is not None and (entry["ended_at"] is None or ended_at > entry["ended_at"]):
            entry["ended_at"] = ended_at
    return counts


def _tags(connection: Connection, experiment_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the tags of each experiment that has any, sorted here, since databases sort text differently."""
    tags: dict[str, list[str]] = {}
    for key, tag in sorted(map(tuple, connection.execute(_TAGS_OF, {"experiments": experiment_ids}))):
        tags.setdefault(key, []).append(tag)
    return tags


def _experiment(experiment: Any, counts: dict[str, Any], tags: list[str]) -> dict[str, Any]:
    spec, states = experiment.spec, counts["states"]
    state = "active" if experiment.seeds_open else _state(states)
    return {
        "id": experiment.id,
        "name": experiment.name,
        "state": state,
        "dataset": spec["dataset"]["name"],
        "teacher_model": teacher_title(spec),
        "student_model": student_title(spec),
        "methods": [method["label"] for method in spec["methods"]],
        "tags": tags,
        "notes": experiment.notes,
        "sweep": experiment.sweep,
        "parent": experiment.parent_id or "",
        "submitted_by": experiment.submitted_by,
        "project": experiment.project,
        "archived_at": experiment.archived_at,
        "counts": public.StateCounts(**states),
        "progress": min(counts["done"] / counts["all"], 1.0) if counts["all"] else 0.0,
        "created_at": experiment.created_at,
        "ended_at": None if state == "active" else counts["ended_at"],
    }


def _state(states: dict[str, int]) -> str:
    if not TERMINAL.issuperset(states):
        return "active"
    if "failed" in states:
        return "failed"
    return "cancelled" if "cancelled" in states else "finished"
