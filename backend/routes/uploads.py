"""Uploaded weights of teachers: upload, list, delete."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, SessionDep, SettingsDep, StoreDep, SubmitterDep, reads, submits
from backend.api.request_bodies import ProjectParameter
from backend.artifacts import uploads
from backend.people import rights
from core.protocol.artifacts import UPLOAD_NAME, Upload, UploadList

router = APIRouter(prefix="/teachers/uploads", tags=["teachers"], route_class=BoundedRoute)

_BLOCK = 1 << 20


@router.post(
    "",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    responses={409: {"description": "Another file has this name, this file has another name, or the quota is used up"}},
)
async def upload(
    request: Request,
    principal: SubmitterDep,
    database: DatabaseDep,
    store: StoreDep,
    name: Annotated[
        str,
        Query(min_length=1, max_length=100, pattern=UPLOAD_NAME, description="The name of the weights in specs."),
    ],
    project: ProjectParameter = None,
) -> Upload:
    """Upload a teacher's weights: the body is a safetensors file.

    The file is written to disk as it arrives, checked against its own header without executing any of it, and stored
    under its SHA-256. A spec then names it as `teacher: {model: …, weights: "upload:NAME"}`. Uploading the same file
    again changes nothing.
    """
    target = rights.target(project)
    path = await run_in_threadpool(store.new_file)
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            buffer = bytearray()
            async for chunk in request.stream():
                buffer += chunk
                if len(buffer) >= _BLOCK:
                    block = bytes(buffer)
                    buffer.clear()
                    digest.update(block)
                    await run_in_threadpool(file.write, block)
            digest.update(buffer)
            await run_in_threadpool(file.write, bytes(buffer))
        received = await run_in_threadpool(uploads.check, path, digest.hexdigest())
        return await run_in_threadpool(uploads.add, database, store, received, name, principal.submitter, target)
    finally:
        path.unlink(missing_ok=True)


@router.get("", dependencies=[reads])
def list_uploads(session: SessionDep, settings: SettingsDep) -> UploadList:
    """List uploaded weights, newest first, and the maximum size of an upload."""
    return UploadList(items=uploads.list_uploads(session), max_bytes=settings.max_upload_bytes)


@router.delete(
    "/{sha256}",
    status_code=204,
    dependencies=[submits],
    responses={409: {"description": "A run that has not ended needs the weights"}},
)
def delete_upload(sha256: str, database: DatabaseDep, store: StoreDep) -> None:
    """Delete uploaded weights, by SHA-256 or name.

    Teachers that were created from the weights keep their own copy. A run that failed or was cancelled needs the upload
    again if it is retried.
    """
    uploads.remove(database, store, sha256)
