"""Penultimate features of a finished run of classification, as points in a plane."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.artifacts.finished_runs import NOT_READY, ResultsDep, succeeded
from backend.predictions import features
from backend.predictions.projections import Projector
from core.protocol.features import FeatureMap, FeatureNetwork, Projection, RunFeatures

router = APIRouter(prefix="/runs/{run_id}/features", tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

_WHAT = "features"


async def _projector(request: Request) -> Projector:
    projector: Projector = request.app.state.projector
    return projector


@router.get("", responses=NOT_READY)
def read_features(run_id: str, session: SessionDep, results: ResultsDep) -> RunFeatures:
    """Read after which epochs a run kept penultimate features of test images, and NC1–NC4 at these epochs.

    404 if the run kept no features; 409 if it has not succeeded.
    """
    run = succeeded(session, run_id, _WHAT)
    return features.summary(run.id, features.read(results, (run.id, run.attempt)))


@router.get("/map", responses=NOT_READY)
def read_feature_map(
    run_id: str,
    session: SessionDep,
    results: ResultsDep,
    projector: Annotated[Projector, Depends(_projector)],
    network: Annotated[FeatureNetwork, Query(description="The run's own network, or its teacher.")] = "run",
    projection: Annotated[Projection, Query(description="How features become points.")] = "pca",
    epoch: Annotated[
        int | None, Query(ge=0, le=2**31 - 1, description="Epochs done, one of `epochs`; by default the last.")
    ] = None,
) -> FeatureMap:
    """Read the features of a network after one epoch as points in a plane, and the angles between class means.

    PCA has the same axes at all epochs of a network: those of its last one. t-SNE and UMAP have no axes; distances
    between groups and sizes of groups have no meaning in them. UMAP needs the package umap-learn beside the backend.
    """
    run = succeeded(session, run_id, _WHAT)
    key = (run.id, run.attempt)
    return features.feature_map(projector, key, features.read(results, key), network, projection, epoch)
