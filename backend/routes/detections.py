"""Detections of a finished run on its test images, and pictures of some of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.artifacts.detection_replies import ImageFilter, image_page, image_reply
from backend.artifacts.finished_runs import (
    NOT_READY,
    ResultsDep,
    cursor_of,
    pictures,
    position_of,
    succeeded,
    unreadable,
)
from backend.artifacts.run_results import RunResults
from backend.db import models
from backend.errors import ApiError, invalid, not_found
from core.items.detection_table import DetectionTable
from core.items.table import ItemsError
from core.protocol.base import ProblemField
from core.protocol.detections import DetectionImages, DetectionKind, DetectionSource, ImageDetections

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

_CONFIDENT = 0.5
_JPEG = "image/jpeg"
Score = Annotated[float, Query(ge=0, le=1, description="Detections with a lower score do not count.")]


@router.get("/detections", responses=NOT_READY)
def read_images(
    run_id: str,
    session: SessionDep,
    detections: ResultsDep,
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
    run = succeeded(session, run_id, "detections")
    table, pictured_items = _table(detections, run), pictures(detections, run)
    if label is not None and label not in table.classes:
        raise invalid(f"{label!r} is no class of this run", ProblemField(path="label", message="unknown class"))
    wanted = ImageFilter(kind, source, label, score, pictured_items if pictured else None)
    page, last = image_page(run.id, table, wanted, pictured_items, position_of(cursor), limit)
    return page if last is None else page.model_copy(update={"next_cursor": cursor_of(last)})


@router.get("/detections/{item}", responses=NOT_READY)
def read_image(
    run_id: str, item: int, session: SessionDep, detections: ResultsDep, score: Score = 0.0
) -> ImageDetections:
    """Read the objects of one test image, and what student and teacher found there."""
    run = succeeded(session, run_id, "detections")
    table = _table(detections, run)
    if item >= table.images:
        raise not_found("image", str(item))
    return image_reply(run.id, table, item, item in pictures(detections, run), score)


@router.get(
    "/pictures/{item}",
    response_class=Response,
    responses=NOT_READY
    | {200: {"content": {_JPEG: {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture"}},
)
def read_picture(run_id: str, item: int, session: SessionDep, detections: ResultsDep) -> Response:
    """Read a small picture of a test image, as JPEG. A run keeps pictures of some images only."""
    run = succeeded(session, run_id, "pictures")
    picture = pictures(detections, run).get(item)
    if picture is None:
        raise ApiError(404, f"this run kept no picture of test image {item}")
    return Response(picture, media_type=_JPEG)


def _table(detections: RunResults, run: models.Run) -> DetectionTable:
    try:
        table = detections.table(run.id, run.attempt)
    except ItemsError as error:
        raise unreadable(error) from error
    if table is None:
        raise ApiError(404, "this run kept no detections")
    return table
