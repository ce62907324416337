"""The present activity in one answer."""

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
    hours: Annotated[
        float, Query(gt=0, le=24 * 366, description="Runs that failed within this number of hours are listed.")
    ] = 24.0,
) -> Response:
    """Return running runs with their remaining time, waiting runs with the reason, recent failures, workers, results.

    The answer has a bounded size and is fast enough to be polled.
    """
    return Response(activity.activity(session, hours).model_dump_json(), media_type="application/json")
