"""The audit log, for admins: read and export. No route changes it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from backend import audit_log
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, SessionDep, administers
from core.protocol.audit import AuditPage

router = APIRouter(prefix="/audit", tags=["audit"], dependencies=[administers], route_class=BoundedRoute)

_TEXT = {"schema": {"type": "string"}}
_MEDIA = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": dict.fromkeys(_MEDIA.values(), _TEXT)}}


@router.get("", responses=_ANSWERS, response_model=AuditPage)
def read_audit_log(
    session: SessionDep, database: DatabaseDep, query: Annotated[audit_log.AuditQuery, Query()]
) -> AuditPage | Response:
    """Read who changed what, when and from where, newest first. Refused attempts at changes are listed too.

    Reads, previews and the reports of workers are not recorded.
    """
    if query.kind_of_answer == "json":
        return audit_log.page(session, query)
    return StreamingResponse(audit_log.export(database, query), media_type=_MEDIA[query.kind_of_answer])
