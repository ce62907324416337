"""The routes, one module a subject. Each has a ``router``; ``ROUTERS`` lists them in the order of the API's page."""

from fastapi import APIRouter

from backend.routes import health

API: tuple[APIRouter, ...] = ()
"""Under ``/api/v1``."""

ROOT: tuple[APIRouter, ...] = (health.router,)
"""Without a prefix."""
