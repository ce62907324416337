"""Complete records of runs and experiments, for repeating runs and for other programs."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.comparisons import sheets
from backend.experiments import records
from backend.routes.experiments import find
from core.protocol.records import ExperimentRecord, RunRecord

router = APIRouter(prefix="/exports", tags=["exports"], dependencies=[reads], route_class=BoundedRoute)


@router.get("/runs/{run_id}")
def run_record(run_id: str, session: SessionDep) -> RunRecord:
    """Export the record for repeating a run: spec, fingerprint, package versions, commit with its changes, hardware."""
    return records.run_record(session, run_id)


@router.get(
    "/experiment",
    response_model=ExperimentRecord,
    responses={
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
        404: {"description": "There is no such experiment"},
    },
)
def experiment_record(
    session: SessionDep,
    experiment: Annotated[str, Query(max_length=100, description="The experiment's id or name.")],
    kind: Annotated[
        Literal["json", "csv"], Query(alias="format", description="json: complete records; csv: one row per run.")
    ] = "json",
) -> ExperimentRecord | Response:
    """Export the records for repeating an experiment's runs; as CSV, one row per run with its last metrics."""
    record = records.experiment_record(session, find(session, experiment))
    if kind == "json":
        return record
    return Response(sheets.csv_text(records.run_rows(record)), media_type="text/csv")
