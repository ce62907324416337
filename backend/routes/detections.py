"""Detections of a finished run on its test images, and pictures of some of them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.artifacts.detection_replies import ImageFilter, image_page, image_reply
from backend.artifacts.detections import RunDetections
from backend.db import models
from backend.errors import ApiError, conflict, invalid, not_found
from core.items.detection_table import DetectionTable
from core.items.table import ItemsError
from core.protocol.base import ProblemField
from core.protocol.detections import DetectionImages, DetectionKind, DetectionSource, ImageDetections

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

_CONFIDENT = 0.5
_JPEG = "image/jpeg"
_NOT_READY: dict[int | str, dict[str, Any]] = {
    409: {"description": "The run has not succeeded, or its file cannot be read"}
}


async def _run_detections(request: Request) -> RunDetections:
    detections: RunDetections = request.app.state.detections
    return detections


DetectionsDep = Annotated[RunDetections, Depends(_run_detections)]
Score = Annotated[float, Query(ge=0, le=1, description="Detections with a lower score do not count.")]


@router.get("/detections", responses=_NOT_READY)
def read_images(
    run_id: str,
    session: SessionDep,
    detections: DetectionsDep,
    kind: Annotated[
        DetectionKind | None, Query(description="Only images with a detection of this kind, or a missed object.")
    ] = None,
    source: Annotated[DetectionSource, Query(description="Whose detections `kind` is about.")] = "student",
    label: Annotated[
        str | None, Query(max_length=200, description="Only images with a detection or an object of this class.")
    ] = None,
    score: Score = _CONFIDENT,
    pictured: Annotated[bool, Query(description="Only images that have a picture.")] = False,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Images per page.")] = 50,
) -> DetectionImages:
    """List the run's test images, with the number of detections of each kind that student and teacher have there.

    Kinds are errors after TIDE, decided at IoU 0.5. 404 if the run kept no detections; 409 if it has not succeeded.
    """
    run = _succeeded(session, run_id)
    table, pictures = _table(detections, run), _pictures(detections, run)
    if label is not None and label not in table.classes:
        raise invalid(f"{label!r} is no class of this run", ProblemField(path="label", message="unknown class"))
    wanted = ImageFilter(kind, source, label, score, pictures if pictured else None)
    page, last = image_page(run.id, table, wanted, pictures, _position(cursor), limit)
    return page if last is None else page.model_copy(update={"next_cursor": _cursor(last)})


@router.get("/detections/{item}", responses=_NOT_READY)
def read_image(
    run_id: str, item: int, session: SessionDep, detections: DetectionsDep, score: Score = 0.0
) -> ImageDetections:
    """Read the objects of one test image, and what student and teacher found there."""
    run = _succeeded(session, run_id)
    table = _table(detections, run)
    if item >= table.images:
        raise not_found("image", str(item))
    return image_reply(run.id, table, item, item in _pictures(detections, run), score)


@router.get(
    "/pictures/{item}",
    response_class=Response,
    responses=_NOT_READY
    | {200: {"content": {_JPEG: {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture"}},
)
def read_picture(run_id: str, item: int, session: SessionDep, detections: DetectionsDep) -> Response:
    """Read a small picture of a test image, as JPEG. A run keeps pictures of some images only."""
    run = _succeeded(session, run_id)
    picture = _pictures(detections, run).get(item)
    if picture is None:
        raise ApiError(404, f"this run kept no picture of test image {item}")
    return Response(picture, media_type=_JPEG)


def _succeeded(session: Session, run_id: str) -> models.Run:
    run = session.get(models.Run, run_id)
    if run is None:
        raise not_found("run", run_id)
    if run.state != "succeeded":
        raise conflict(f"this run is {run.state}; detections are written when a run succeeds")
    return run


def _table(detections: RunDetections, run: models.Run) -> DetectionTable:
    try:
        table = detections.table(run.id, run.attempt)
    except ItemsError as error:
        raise _unreadable(error) from error
    if table is None:
        raise ApiError(404, "this run kept no detections")
    return table


def _pictures(detections: RunDetections, run: models.Run) -> Mapping[int, bytes]:
    try:
        return detections.pictures(run.id, run.attempt)
    except ItemsError as error:
        raise _unreadable(error) from error


def _unreadable(error: ItemsError) -> ApiError:
    return conflict(f"a file of this run cannot be shown: {error}; it can be downloaded")


def _cursor(item: int) -> str:
    return base64.urlsafe_b64encode(str(item).encode()).decode().rstrip("=")


def _position(cursor: str | None) -> int:
    """Return the index of the last image of the previous page; −1 without a cursor.

    Raises:
        ApiError: 422 if this list has not made the cursor.
    """
    if cursor is None:
        return -1
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        if not (text.isdecimal() and len(text) <= 9):
            raise ValueError
        return int(text)
    except (binascii.Error, UnicodeError, ValueError):
        text = "this cursor does not belong to this list; start again without a cursor"
        raise invalid(text, ProblemField(path="cursor", message="unknown")) from None
