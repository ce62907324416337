"""The present activity in one answer, and the time that an experiment still takes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep, FlightsDep, SessionDep, reads
from backend.experiments import activity, remaining
from backend.people import rights
from backend.routes.experiments import find
from core.protocol import public
from core.protocol.activity import Activity

router = APIRouter(tags=["activity"], route_class=BoundedRoute)


@router.get("/activity", dependencies=[reads], response_model=Activity)
async def read_activity(
    database: DatabaseDep,
    flights: FlightsDep,
    hours: Annotated[
        float, Query(gt=0, le=24 * 366, description="Runs that failed within this number of hours are listed.")
    ] = 24.0,
) -> Response:
    """Return running runs with their remaining time, waiting runs with the reason, recent failures, workers, results.

    The answer has a bounded size and is fast enough to be polled. Those who ask at the same time share it.
    """

    def work() -> str:
        with database.read() as session:
            return activity.activity(session, hours).model_dump_json()

    answer = await flights.run(("activity", hours, rights.view_key()), work)
    return Response(answer, media_type="application/json")


@router.get("/time-left", dependencies=[reads], responses={404: {"description": "There is no such experiment"}})
def read_time_left(
    session: SessionDep,
    experiment: Annotated[str, Query(max_length=100, description="Id or name of the experiment.")],
) -> public.TimeLeft:
    """Estimate the time until every run of an experiment has ended, its teachers included."""
    return remaining.time_left(session, find(session, experiment))
