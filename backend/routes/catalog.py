"""The catalog: the entries that a spec may name, and the schema of a spec. Forms are made from it."""

from __future__ import annotations

from fastapi import APIRouter

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import reads
from core import catalog
from core.protocol.public import Catalog
from core.specs import ExperimentSpec

router = APIRouter(tags=["catalog"], dependencies=[reads], route_class=BoundedRoute)


@router.get("/catalog")
def read_catalog() -> Catalog:
    """Return methods, models, data sets and metrics, their parameters as JSON schemas, and the schema of a spec."""
    return Catalog(**catalog.describe(), experiment_schema=ExperimentSpec.model_json_schema())
