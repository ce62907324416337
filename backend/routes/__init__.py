"""The routes, one module a subject. Each has a ``router``; ``API`` lists them in the order of its page."""

from fastapi import APIRouter

from backend.routes import (
    activity,
    artifacts,
    catalog,
    comparisons,
    events,
    experiments,
    exports,
    fleet,
    health,
    metrics,
    monitoring,
    runs,
    submissions,
    tokens,
    uploads,
    worker,
)

API: tuple[APIRouter, ...] = (
    activity.router,
    catalog.router,
    submissions.router,
    experiments.router,
    runs.router,
    metrics.router,
    events.router,
    artifacts.router,
    comparisons.router,
    exports.router,
    fleet.router,
    uploads.router,
    tokens.router,
    worker.router,
)
"""Under ``/api/v1``."""

ROOT: tuple[APIRouter, ...] = (health.router, monitoring.router)
"""Without a prefix."""
