"""The routes: one module per subject, each with a ``router``."""

from fastapi import APIRouter
from fastapi.routing import APIRoute

from backend.routes import (
    account,
    activity,
    artifacts,
    audit,
    catalog,
    comparisons,
    detections,
    events,
    experiments,
    exports,
    features,
    health,
    layouts,
    leaderboard,
    metrics,
    monitoring,
    people,
    predictions,
    projects,
    runs,
    sessions,
    shares,
    submissions,
    sweeps,
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
    detections.router,
    predictions.router,
    features.router,
    comparisons.router,
    leaderboard.router,
    sweeps.router,
    layouts.router,
    exports.router,
    workers.router,
    shares.router,
    uploads.router,
    tokens.router,
    projects.router,
    people.router,
    sessions.router,
    account.router,
    audit.router,
)
"""Routers under ``/api/v1`` in the order of matching: the routes that trainings call most come first."""

_BY_SUBJECT = [route for router in (*API[1:], API[0]) for route in router.routes if isinstance(route, APIRoute)]
TAGS = list(dict.fromkeys(str(tag) for route in _BY_SUBJECT for tag in route.tags))
"""The tags in the order of the ``/docs`` page; the worker protocol comes last."""

ROOT: tuple[APIRouter, ...] = (health.router, monitoring.router)
"""Routers without a prefix."""
