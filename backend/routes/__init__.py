"""The routes, one module a subject, each with a ``router``."""

from fastapi import APIRouter
from fastapi.routing import APIRoute

from backend.routes import (
    activity,
    artifacts,
    catalog,
    comparisons,
    events,
    experiments,
    exports,
    health,
    metrics,
    monitoring,
    runs,
    submissions,
    tokens,
    uploads,
    worker,
    workers,
)

API: tuple[APIRouter, ...] = (
    worker.router,
    submissions.router,
    activity.router,
    catalog.router,
    experiments.router,
    runs.router,
    metrics.router,
    events.router,
    artifacts.router,
    comparisons.router,
    exports.router,
    workers.router,
    uploads.router,
    tokens.router,
)
"""Under ``/api/v1``, in the order in which a request is held against them: what trainings send comes first."""

_BY_SUBJECT = [route for router in (*API[1:], API[0]) for route in router.routes if isinstance(route, APIRoute)]
TAGS = list(dict.fromkeys(str(tag) for route in _BY_SUBJECT for tag in route.tags))
"""The subjects in the order of the interface's page, where the workers' own comes last."""

ROOT: tuple[APIRouter, ...] = (health.router, monitoring.router)
"""Without a prefix."""
