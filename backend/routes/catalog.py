"""What a spec may name, and its schema: what forms are made from."""

from __future__ import annotations

from fastapi import APIRouter

from backend.boundary import BoundedRoute
from backend.deps import reads
from core import catalog
from core.spec import ExperimentSpec
from core.wire.public import Catalog

router = APIRouter(tags=["catalog"], dependencies=[reads], route_class=BoundedRoute)


@router.get("/catalog")
def read_catalog() -> Catalog:
    """Methods, models, data sets and metrics with their parameters as JSON schemas, and the schema of a spec."""
    return Catalog(**catalog.describe(), experiment_schema=ExperimentSpec.model_json_schema())
