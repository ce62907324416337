"""The audit log, for admins: read and export. No route changes it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from backend import audit, audit_log
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, administers
from core.protocol.audit import AuditPage

router = APIRouter(prefix="/audit", tags=["audit"], dependencies=[administers], route_class=BoundedRoute)

_TEXT = {"schema": {"type": "string"}}
_MEDIA = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": dict.fromkeys(_MEDIA.values(), _TEXT)}}


@router.get("", responses=_ANSWERS, response_model=AuditPage)
async def read_audit_log(
    http: Request, database: DatabaseDep, query: Annotated[audit_log.AuditQuery, Query()]
) -> AuditPage | Response:
    """Read who changed what, when and from where, newest first. Refused attempts at changes are listed too.

    Reads, previews and the reports of workers are not recorded.
    """
    refusals: audit.Refusals = http.app.state.refusals
    await refusals.store_sign_ins()
    if query.kind_of_answer != "json":
        return StreamingResponse(audit_log.export(database, query), media_type=_MEDIA[query.kind_of_answer])

    def read() -> AuditPage:
        with database.read() as session:
            return audit_log.page(session, query)

    return await run_in_threadpool(read)
