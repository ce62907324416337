"""The audit log: who changed what, when and from where."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from core.protocol.base import Message, Page


class AuditEntry(Message):
    """A change, or a refused attempt at one."""

    id: int = Field(description="Number of the entry; later entries have greater numbers.")
    at: datetime
    action: str = Field(description="What was done: the subject and the name of the route, such as experiments.cancel.")
    status: int = Field(description="Status of the answer: 2xx for a change, 401 or 403 for a refused attempt.")
    token_id: str = Field("", description="Id of the token; empty without a valid token.")
    token: str = Field("", description="Name of the token at that time.")
    person: str = Field("", description="Name of the person whose token it was; empty for a service's token.")
    kind: str = Field("", description="Kind of the object, such as experiment, run, token or project.")
    object: str = Field("", description="Id of the object, or its name if its kind has no ids.")
    project: str = Field("", description="Project of the object; empty for what belongs to the whole lab.")
    address: str = Field("", description="Network address that the request came from.")
    request_id: str = Field("", description="Id of the request, as in its response header X-Request-ID and the log.")
    details: dict[str, Any] = Field(default_factory=dict, description="Further facts, such as names and new values.")

    def details_text(self) -> str:
        """Return the details on one line."""
        return "; ".join(
            f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in self.details.items()
        )


class AuditPage(Page):
    """A page of the audit log, newest first."""

    items: list[AuditEntry]
