"""The quota of a project as text, for the command line and the dashboard."""

from __future__ import annotations

from common.formatting import size_text
from core.protocol.quotas import Quota

NO_LIMIT = "no limit"


def quota_rows(quota: Quota) -> list[tuple[str, str, str]]:
    """Return name, use and limit of each kind of quota."""
    hours, size = quota.gpu_hours_limit, quota.disk_bytes_limit
    days = quota.window_seconds / 86_400
    return [
        ("slots at once", f"{quota.slots_used:,}", NO_LIMIT if quota.slots_limit is None else f"{quota.slots_limit:,}"),
        (f"GPU-hours in {days:g} days", f"{quota.gpu_hours_used:,.1f}", NO_LIMIT if hours is None else f"{hours:,g}"),
        ("stored files", size_text(quota.disk_bytes_used), NO_LIMIT if size is None else size_text(size)),
    ]
