"""Whether any run was lost or ran twice, from the database and from what the workers were told."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import func, select

from backend.db import Database
from backend.db.models import Attempt, QueueLane, Run
from backend.queue.leased import LEASED_STATES
from benchmarks.scale.load import Load
from benchmarks.scale.workers import Outcomes


def audit(database: Database, load: Load, outcomes: Outcomes) -> dict[str, int]:
    """Return counts; all that end in ``_wrong`` must be 0.

    Args:
        database: The database, after the end.
        load: The size of the lab.
        outcomes: What the workers were told and have told.
    """
    with database.read() as session:
        states: dict[str, int] = dict(session.execute(select(Run.state, func.count()).group_by(Run.state)).all())
        attempts = {
            (run_id, number): outcome
            for run_id, number, outcome in session.execute(select(Attempt.run_id, Attempt.number, Attempt.outcome))
        }
        full = (
            select(func.count())
            .select_from(Attempt)
            .join(Run, Run.id == Attempt.run_id)
            .join(QueueLane, QueueLane.id == Run.lane_id)
            .where(QueueLane.project == f"project-{load.projects - 1}")
        )
        over_quota = session.scalars(full).one() if load.projects > 1 else 0
    claimed, finished = Counter(outcomes.claimed), Counter(outcomes.finished)
    runs_claimed = Counter(run_id for run_id, _ in claimed)
    succeeded = {key for key, outcome in attempts.items() if outcome == "succeeded"}
    return {
        "runs": sum(states.values()),
        "queued": states.get("queued", 0),
        "training": sum(states.get(state, 0) for state in LEASED_STATES),
        "succeeded": states.get("succeeded", 0),
        "missing_runs_wrong": load.queued - sum(states.values()),
        "other_states_wrong": sum(states.values())
        - sum(states.get(state, 0) for state in ("queued", "succeeded", *LEASED_STATES)),
        "claimed_twice_wrong": sum(count - 1 for count in claimed.values()),
        "claimed_by_two_wrong": sum(count - 1 for count in runs_claimed.values()) - len(outcomes.lost),
        "unknown_claims_wrong": len(claimed.keys() - attempts.keys()),
        "finished_not_stored_wrong": len(finished.keys() - succeeded),
        "succeeded_not_finished_wrong": len(succeeded - finished.keys()),
        "lost_attempts_wrong": len(outcomes.lost),
        "over_quota_wrong": over_quota,
    }
