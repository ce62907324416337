"""Metrics for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import reads
from backend.operations.prometheus_metrics import CONTENT_TYPE, Monitor

router = APIRouter(tags=["health"], dependencies=[reads], route_class=BoundedRoute)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def read_exposition(request: Request) -> Response:
    """Return runs, queue, attempts and workers in Prometheus' text format. A scraper needs a token of scope `read`."""
    monitor: Monitor = request.app.state.monitor
    return Response(monitor.exposition(), media_type=CONTENT_TYPE)
