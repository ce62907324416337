"""Queries for the list of workers: their slots, runs and GPUs."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.models import Experiment, Run
from backend.db.models import Worker as WorkerRow
from backend.db.visibility import EVERY_PROJECT
from backend.queue.leased import LEASED_STATES
from core.protocol.public import Worker, WorkerRun


def list_workers(session: Session) -> list[Worker]:
    """Return every worker that has ever registered: online workers first, then by name."""
    running, taken, reserved = _running(session), _slots_taken(session), _visible_reservations(session)
    rows = session.scalars(select(WorkerRow).order_by(WorkerRow.state.desc(), WorkerRow.name, WorkerRow.id))
    return [
        _worker(
            row, running[row.id], taken.get(row.id, 0), row.reserved_run_id if row.reserved_run_id in reserved else None
        )
        for row in rows
    ]


def _slots_taken(session: Session) -> dict[str, int]:
    """Return the slots that are taken on each worker, also by runs of projects that the sender does not see."""
    query = select(Run.worker_id, func.sum(Run.gpus)).where(Run.state.in_(LEASED_STATES)).group_by(Run.worker_id)
    rows = session.execute(query.execution_options(**{EVERY_PROJECT: True}))
    return {worker_id or "": int(slots) for worker_id, slots in rows}


def _visible_reservations(session: Session) -> set[str]:
    """Return the runs for which workers reserve GPUs, of those that the sender sees."""
    reserved = select(WorkerRow.reserved_run_id).where(WorkerRow.reserved_run_id.is_not(None))
    return set(session.scalars(select(Run.id).where(Run.id.in_(reserved))))


def _running(session: Session) -> dict[str, list[WorkerRun]]:
    """Return the runs that workers hold a lease of, by the worker's id."""
    query = (
        select(
            Run.worker_id,
            Run.id,
            Run.label,
            Run.seed,
            Experiment.name,
            Run.state,
            Run.gpus,
            Run.epoch,
            Run.total_epochs,
        )
        .outerjoin(Experiment, Experiment.id == Run.experiment_id)
        .where(Run.state.in_(LEASED_STATES))
        .order_by(Run.id)
    )
    runs_by_worker: dict[str, list[WorkerRun]] = defaultdict(list)
    for worker_id, run_id, label, seed, experiment, state, gpus, epoch, total_epochs in session.execute(query):
        runs_by_worker[worker_id or ""].append(
            WorkerRun(
                run_id=run_id,
                label=label,
                seed=seed,
                experiment=experiment or "",
                state=state,
                gpus=gpus,
                epoch=epoch,
                total_epochs=total_epochs,
            )
        )
    return runs_by_worker


def _worker(row: WorkerRow, runs: list[WorkerRun], busy: int, reserved_for: str | None) -> Worker:
    online = row.state == "online"
    return Worker.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "host": row.host,
            "slots": row.slots,
            "device": row.device,
            "state": row.state,
            "draining": row.draining,
            "labels": row.labels,
            "running": [run.run_id for run in runs],
            "runs": runs,
            "busy": busy,
            # The last report of a silent worker may no longer describe its GPUs.
            "gpus": row.report.get("gpus", []) if online else [],
            "problems": row.report.get("problems", []) if online else [],
            "reserved_for": reserved_for,
            "last_heartbeat": row.last_heartbeat,
            "version": row.version,
        }
    )
