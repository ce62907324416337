"""The routes, one module a subject. Each has a ``router``; ``ROUTERS`` lists them in the order of the API's page."""

from fastapi import APIRouter

from backend.routes import catalog, comparisons, events, fleet, health, metrics, monitoring

API: tuple[APIRouter, ...] = (
    catalog.router,
    metrics.router,
    events.router,
    comparisons.router,
    fleet.router,
)
"""Under ``/api/v1``."""

ROOT: tuple[APIRouter, ...] = (health.router, monitoring.router)
"""Without a prefix."""
