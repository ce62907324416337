"""Reads and sets the quotas of projects."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from backend import audit
from backend.db import now
from backend.people.projects import project_row
from backend.queue import quotas
from backend.queue.usage import WINDOW
from core.protocol.quotas import Quota, QuotaEdit

_COLUMNS = {"slots": "slots_limit", "gpu_hours": "gpu_hours_limit", "disk_bytes": "disk_limit"}


def read(connection: Connection, projects: Sequence[str]) -> list[Quota]:
    """Return the quotas of projects and what they use, in the order of the names."""
    limits = quotas.limits_of(connection, projects)
    use = quotas.use_of(connection, projects, now(connection))
    return [_shape(name, limits.get(name, quotas.Limits()), use[name]) for name in projects]


def change(session: Session, name: str, request: QuotaEdit) -> None:
    """Set the given limits of a project. They decide from the next claim on; trainings are not interrupted.

    Raises:
        ApiError: 404 if there is no project of this name.
    """
    row = project_row(session, name)
    changed = request.model_dump(exclude_unset=True)
    before = {f"{field}_before": getattr(row, _COLUMNS[field]) for field in changed}
    for field, value in changed.items():
        setattr(row, _COLUMNS[field], value)
    audit.about("project", name, project=name, **changed, **before)


def _shape(name: str, limits: quotas.Limits, use: quotas.Use) -> Quota:
    return Quota(
        project=name,
        slots_limit=limits.slots,
        slots_used=use.slots,
        gpu_hours_limit=limits.gpu_hours,
        gpu_hours_used=use.gpu_hours,
        disk_bytes_limit=limits.disk_bytes,
        disk_bytes_used=use.disk_bytes,
        window_seconds=WINDOW.total_seconds(),
    )
