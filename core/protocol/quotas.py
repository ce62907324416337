"""Quotas of projects: how much of the lab a project may use, and what it uses."""

from __future__ import annotations

from pydantic import Field

from core.protocol.base import Message, RequestBody

MAX_SLOTS = 1_000_000
MAX_GPU_HOURS = 1e9
MAX_DISK_BYTES = 2**60


class Quota(Message):
    """GET /projects/{project}/quota. A limit is null if there is none."""

    project: str
    slots_limit: int | None = Field(None, description="Most slots that its runs take at once.")
    slots_used: int = Field(0, description="Slots that its runs take now.")
    gpu_hours_limit: float | None = Field(None, description="Most GPU-hours within the window.")
    gpu_hours_used: float = Field(
        0.0, description="GPU-hours of its runs on GPU workers within the window, those that train now included."
    )
    disk_bytes_limit: int | None = Field(None, description="Most bytes of stored files.")
    disk_bytes_used: int = Field(0, description="Bytes of uploads, and of files of attempts that have ended.")
    window_seconds: float = Field(description="For how long back GPU-hours count.")

    @property
    def is_limited(self) -> bool:
        """Whether the project has any limit."""
        return any(limit is not None for limit in (self.slots_limit, self.gpu_hours_limit, self.disk_bytes_limit))


class QuotaEdit(RequestBody):
    """PATCH /projects/{project}/quota. Limits that are left out stay as they are; null removes one."""

    slots: int | None = Field(None, ge=0, le=MAX_SLOTS, description="Most slots at once; 0 lets nothing start.")
    gpu_hours: float | None = Field(
        None, ge=0, le=MAX_GPU_HOURS, description="Most GPU-hours within the last seven days.", examples=[500.0]
    )
    disk_bytes: int | None = Field(None, ge=0, le=MAX_DISK_BYTES, description="Most bytes of stored files.")
