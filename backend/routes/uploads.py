"""Uploaded weights of teachers: send, list, delete."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, SessionDep, SettingsDep, StoreDep, SubmitterDep, reads, submits
from backend.artifacts import uploads
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
    responses={409: {"description": "The name stands for another file, or the file is here under another name"}},
)
async def upload(
    request: Request,
    principal: SubmitterDep,
    database: DatabaseDep,
    store: StoreDep,
    name: Annotated[
        str,
        Query(min_length=1, max_length=100, pattern=UPLOAD_NAME, description="How specs name it."),
    ],
) -> Upload:
    """Send a teacher's weights as a safetensors file, whole, as the body.

    It goes to the disk as it comes, is checked against its own header without anything of it being executed, and is
    kept by its SHA-256. A spec then names it as `teacher: {model: …, weights: "upload:NAME"}`. Sending the same file
    again changes nothing.
    """
    path = await run_in_threadpool(store.new_file)
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            waiting = bytearray()
            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= _BLOCK:
                    block = bytes(waiting)
                    waiting.clear()
                    digest.update(block)
                    await run_in_threadpool(file.write, block)
            digest.update(waiting)
            await run_in_threadpool(file.write, bytes(waiting))
        received = await run_in_threadpool(uploads.checked, path, digest.hexdigest())
        return await run_in_threadpool(uploads.enter, database, store, received, name, principal.name)
    finally:
        path.unlink(missing_ok=True)


@router.get("", dependencies=[reads])
def list_uploads(session: SessionDep, settings: SettingsDep) -> UploadList:
    """Uploaded weights, newest first, and how large one may be."""
    return UploadList(items=uploads.listed(session), max_bytes=settings.max_upload_bytes)


@router.delete(
    "/{sha256}",
    status_code=204,
    dependencies=[submits],
    responses={409: {"description": "A run that has not ended needs it"}},
)
def delete_upload(sha256: str, database: DatabaseDep, store: StoreDep) -> None:
    """Delete uploaded weights, by SHA-256 or name.

    Teachers that were made of them keep their own copy. A run that failed or was cancelled before needs them again.
    """
    uploads.forget(database, store, sha256)
