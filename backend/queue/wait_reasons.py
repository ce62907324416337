"""Why queued runs do not start: no suitable worker, or a quota of their project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from backend.db import now
from backend.queue import quotas
from backend.queue.eligibility import RunRequirements, WorkerCapacity, explain_wait, online_capacities


class QueuedRun(RunRequirements, Protocol):
    """What decides why a queued run waits, as columns of the run's row."""

    @property
    def lane_id(self) -> int: ...


@dataclass(frozen=True)
class WaitReasons:
    """The present workers and quotas, for the texts of many runs.

    Attributes:
        capacities: Capacities of the workers that are online.
        quotas: The quotas of projects.
    """

    capacities: Sequence[WorkerCapacity]
    quotas: quotas.QuotaState

    @classmethod
    def read(cls, connection: Connection) -> WaitReasons:
        """Read the workers and quotas."""
        return cls(online_capacities(connection), quotas.state(connection, now(connection)))

    def of(self, run: QueuedRun) -> str:
        """Return why a queued run cannot start now, as text for people; empty if it waits only for a free slot."""
        quota = self.quotas.reason(run.lane_id, run.device, run.gpus)
        return "; ".join(filter(None, (explain_wait(run, self.capacities), quota)))
