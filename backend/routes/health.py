"""Liveness and readiness probes."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import DatabaseDep
from backend.db import migrate
from backend.errors import ApiError

router = APIRouter(tags=["health"], route_class=BoundedRoute)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Return 200 if the process answers; the database is not checked."""
    return {"status": "ok"}


@router.get(
    "/readyz", responses={503: {"description": "The database is unavailable, or has the schema of another version"}}
)
def readyz(database: DatabaseDep) -> dict[str, str]:
    """Return 200 if the database answers and has the schema of this version; 503 otherwise."""
    try:
        problem = migrate.mismatch(database)
    except SQLAlchemyError as error:
        raise ApiError(503, "the database does not answer") from error
    if problem:
        raise ApiError(503, problem)
    return {"status": "ready", "schema": migrate.head_revision()}
