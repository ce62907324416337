"""What goes on now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.experiments import activity
from core.protocol.activity import Activity

router = APIRouter(tags=["activity"], route_class=BoundedRoute)


@router.get("/activity", dependencies=[reads], response_model=Activity)
def read_activity(
    session: SessionDep,
    hours: Annotated[float, Query(gt=0, le=24 * 366, description="How far back to look for what has failed.")] = 24.0,
) -> Response:
    """What runs with its time left, what waits and for what, what has failed lately, the workers, the newest results.

    One answer of bounded size, made for being asked for again and again.
    """
    return Response(activity.activity(session, hours).model_dump_json(), media_type="application/json")
