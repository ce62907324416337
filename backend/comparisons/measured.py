"""Which metrics runs have reported."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from backend.db.models import ExperimentRun, MetricLatest, MetricName, Run
from core.catalog import METRICS
from core.protocol.comparisons import MeasuredMetrics


def measured_metrics(session: Session, experiments: Sequence[str], runs: Sequence[str]) -> MeasuredMetrics:
    """Return the names of the metrics that the students of experiments, or single runs, have reported.

    Args:
        session: Session for reading.
        experiments: Ids of experiments.
        runs: Ids of runs.
    """
    linked = select(ExperimentRun.run_id).where(ExperimentRun.experiment_id.in_(experiments))
    wanted = or_(Run.id.in_(runs), and_(Run.id.in_(linked), Run.role == "student"))
    reported = select(MetricLatest.name_id).join(Run, Run.id == MetricLatest.run_id).where(wanted)
    names = set(session.scalars(select(MetricName.name).where(MetricName.id.in_(reported))))
    return MeasuredMetrics(names=[*(name for name in METRICS if name in names), *sorted(names - set(METRICS))])
