"""Files of runs: list and download."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, StoreDep, reads
from backend.artifacts.run_files import Store, StoredFile
from backend.db import models
from backend.errors import ApiError, not_found
from core.protocol.artifacts import Artifact, ArtifactList

router = APIRouter(prefix="/runs/{run_id}/artifacts", tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_MEDIA = "application/octet-stream"
_BINARY = {_MEDIA: {"schema": {"type": "string", "format": "binary"}}}


@router.get("")
def list_artifacts(run_id: str, session: SessionDep, store: StoreDep) -> ArtifactList:
    """List the files of a run's attempts: weights, checkpoints, journals, output."""
    files = _files(session, store, run_id)
    items = [Artifact(id=file.id, attempt=file.attempt, name=file.name, size=file.size) for file in files]
    return ArtifactList(run_id=run_id, items=items)


@router.get(
    "/{artifact_id}",
    response_class=FileResponse,
    responses={
        200: {"content": _BINARY, "description": "The file"},
        206: {"content": _BINARY, "description": "The requested range of the file"},
        416: {"description": "The range begins after the end of the file"},
    },
)
def download_artifact(
    run_id: str, artifact_id: str, request: Request, session: SessionDep, store: StoreDep
) -> Response:
    """Download a file, or the bytes that a `Range` header names."""
    file = next((item for item in _files(session, store, run_id) if item.id == artifact_id), None)
    if file is None:
        raise not_found("artifact", artifact_id)
    part = _requested_range(request, file)
    name = PurePosixPath(file.name).name
    if file.path is not None:
        return FileResponse(file.path, filename=name, media_type=_MEDIA)
    start, stop = part or (0, file.size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        "Content-Length": str(stop - start),
        "ETag": f'"{file.sha256}"',
    }
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    blocks = store.blocks(file, start, stop)
    return StreamingResponse(blocks, status_code=206 if part else 200, headers=headers, media_type=_MEDIA)


def _files(session: Session, store: Store, run_id: str) -> list[StoredFile]:
    run = session.get(models.Run, run_id)
    if run is None:
        raise not_found("run", run_id)
    attempts = session.scalars(select(models.Attempt.number).where(models.Attempt.run_id == run.id))
    return store.files(run.id, list(attempts))


def _requested_range(request: Request, file: StoredFile) -> tuple[int, int] | None:
    """Return the start and the (exclusive) stop of the requested range; None for the complete file.

    An invalid range, several ranges, or a range of another version of the file (If-Range) are ignored (RFC 9110, 14.2).
    The header is then removed from the request, because FileResponse reads it too.

    Raises:
        ApiError: 416 if the range begins after the end of the file.
    """
    header = request.headers.get("range")
    if header is None:
        return None
    match = _RANGE.fullmatch(header.replace(" ", ""))
    first, last = (match[1], match[2]) if match else ("", "")
    file_changed = bool(file.sha256) and request.headers.get("if-range", f'"{file.sha256}"') != f'"{file.sha256}"'
    if file_changed or not (first or last) or (first and last and int(last) < int(first)):
        request.scope["headers"] = [item for item in request.scope["headers"] if item[0] != b"range"]
        return None
    if (first and int(first) >= file.size) or (not first and int(last) == 0) or file.size == 0:
        raise ApiError(
            416,
            f"the file has {file.size} bytes; the range begins after its end",
            headers={"Content-Range": f"bytes */{file.size}"},
        )
    if not first:
        return max(file.size - int(last), 0), file.size
    return int(first), min(int(last) + 1, file.size) if last else file.size
