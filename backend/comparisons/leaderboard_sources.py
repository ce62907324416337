"""Where the values of a leaderboard come from: experiments with their budgets of trials, and runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons.leaderboard_columns import Column
from backend.comparisons.leaderboard_names import choice_of
from backend.db import chunked, models
from core.protocol.leaderboards import LeaderboardExperiment, LeaderboardRun


def experiments_of(session: Session, experiments: Sequence[models.Experiment]) -> list[LeaderboardExperiment]:
    """Return the provenance of experiments."""
    tags: dict[str, list[str]] = {}
    table = models.ExperimentTag
    for part in chunked([item.id for item in experiments]):
        query = select(table.experiment_id, table.tag).where(table.experiment_id.in_(part)).order_by(table.tag)
        for experiment_id, tag in session.execute(query):
            tags.setdefault(experiment_id, []).append(tag)
    return [_experiment(item, tags.get(item.id, [])) for item in experiments]


def _experiment(item: models.Experiment, tags: list[str]) -> LeaderboardExperiment:
    choice = choice_of(item)
    return LeaderboardExperiment(
        id=item.id,
        name=item.name,
        created_at=item.created_at,
        tags=tags,
        sweep=item.sweep,
        trials=max((chosen.trials for chosen in choice.methods), default=0) if choice else 0,
        choice=choice.digest if choice else "",
    )


def runs_of(session: Session, columns: Sequence[Column]) -> list[LeaderboardRun]:
    """Return every run with a value, in the order of the settings, methods and seeds."""
    run = models.Run
    ids = [method.runs[key].run_id for column in columns for method in column.methods.values() for key in method.values]
    rows: dict[str, Any] = {}
    for part in chunked(ids):
        query = select(run.id, run.experiment_id, run.teacher_run_id, run.fingerprint, run.environment, run.ended_at)
        rows |= {row.id: row for row in session.execute(query.where(run.id.in_(part)))}
    return [
        LeaderboardRun(
            id=run_id,
            experiment_id=rows[run_id].experiment_id or "",
            setting=column.title,
            label=label,
            seed=key[1],
            teacher_run_id=rows[run_id].teacher_run_id,
            value=value,
            fingerprint=rows[run_id].fingerprint,
            commit=(rows[run_id].environment or {}).get("commit", ""),
            ended_at=rows[run_id].ended_at,
        )
        for column in columns
        for label, method in sorted(column.methods.items())
        for key, value in sorted(method.values.items())
        if (run_id := method.runs[key].run_id) in rows
    ]
