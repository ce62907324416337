"""Files of runs: list, download."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.artifacts import Store, StoredFile
from backend.db import models
from backend.deps import SessionDep, StoreDep, reads
from backend.errors import ApiError, not_found
from backend.texts import clean
from core.wire.stored import Artifact, ArtifactList

router = APIRouter(prefix="/runs/{run_id}/artifacts", tags=["runs"], dependencies=[reads])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("")
def list_artifacts(run_id: str, session: SessionDep, store: StoreDep) -> ArtifactList:
    """The files that a run's attempts have left: weights, checkpoints, journals, output."""
    found = _files(session, store, run_id)
    items = [Artifact(id=file.id, attempt=file.attempt, name=file.name, size=file.size) for file in found]
    return ArtifactList(run_id=run_id, items=items)


@router.get(
    "/{artifact_id}",
    response_class=FileResponse,
    responses={
        200: {"content": _BINARY, "description": "The file"},
        206: {"content": _BINARY, "description": "The part of it that Range asks for"},
        416: {"description": "The file ends before that range begins"},
    },
)
def download_artifact(
    run_id: str, artifact_id: str, request: Request, session: SessionDep, store: StoreDep
) -> FileResponse:
    """Download a file, or with a `Range` header the bytes that it asks for."""
    file = next((item for item in _files(session, store, run_id) if item.id == artifact_id), None)
    if file is None:
        raise not_found("artifact", artifact_id)
    _judge_range(request, file.size)
    return FileResponse(file.path, filename=PurePosixPath(file.name).name, media_type="application/octet-stream")


def _files(session: Session, store: Store, run_id: str) -> list[StoredFile]:
    run = session.get(models.Run, clean(run_id))
    if run is None:
        raise not_found("run", run_id)
    attempts = session.scalars(select(models.Attempt.number).where(models.Attempt.run_id == run.id))
    return store.files(run.id, list(attempts))


def _judge_range(request: Request, size: int) -> None:
    """Have a range that is none, or several, passed over (RFC 9110, 14.2); raises ApiError 416 beyond the end."""
    given = request.headers.get("range")
    if given is None:
        return
    match = _RANGE.fullmatch(given.replace(" ", ""))
    first, last = (match[1], match[2]) if match else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        request.scope["headers"] = [item for item in request.scope["headers"] if item[0] != b"range"]
    elif (first and int(first) >= size) or (not first and int(last) == 0) or size == 0:
        raise ApiError(
            416,
            f"the file has {size} bytes, and the range begins behind them",
            headers={"Content-Range": f"bytes */{size}"},
        )
