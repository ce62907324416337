"""The choice of settings from the trials of an experiment."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.comparisons import run_data
from backend.db.models import Experiment, ExperimentRun, Run
from core.specs import ExperimentSpec, RunSpec
from core.specs.experiment import STORED
from core.tuning import choice
from core.tuning.choice import Choice, TrialRun


def choose(session: Session, experiment: Experiment, spec: ExperimentSpec) -> Choice:
    """Choose the settings of an experiment's methods from its trials, all of which have ended.

    Args:
        session: A transaction.
        experiment: The experiment.
        spec: Its spec, as it was submitted.

    Raises:
        ChoiceError: A run has seen the test images, a run was deleted, or no trial of a method succeeded.
    """
    query = (
        select(ExperimentRun.label, Run.id, Run.spec, Run.state, Run.test_size)
        .join(Run, Run.id == ExperimentRun.run_id)
        .where(ExperimentRun.experiment_id == experiment.id, ExperimentRun.trial, Run.role == "student")
        .order_by(ExperimentRun.position)
    )
    rows = session.execute(query).all()
    latest = run_data.latest(session, [row.id for row in rows], None)
    runs = [
        TrialRun(
            row.label,
            RunSpec.model_validate(row.spec, context=STORED),
            {name: point.value for name, point in latest.get(row.id, {}).items()} if row.state == "succeeded" else None,
        )
        for row in rows
    ]
    images = next((row.test_size for row in rows if row.test_size), 0)
    return choice.choose(spec, runs, images)
