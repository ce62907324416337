"""What a spec may name, and its schema: what forms are made from."""

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
    """Methods, models, data sets and metrics with their parameters as JSON schemas, and the schema of a spec."""
    return Catalog(**catalog.describe(), experiment_schema=ExperimentSpec.model_json_schema())
