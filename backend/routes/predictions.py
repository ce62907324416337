"""Predictions of a finished run of classification on its test images, beside its teacher's or another run's."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.artifacts.finished_runs import NOT_READY, ResultsDep, cursor_of, pictures, position_of, succeeded
from backend.artifacts.run_results import RunResults
from backend.db import models
from backend.errors import invalid
from backend.predictions import correlations, images, measures
from backend.predictions.networks import TEACHER, Compared, compared
from core.protocol.base import ProblemField
from core.protocol.predictions import (
    ConfusionMatrix,
    CorrelationDifference,
    PredictedImages,
    PredictionKind,
    RunPredictions,
)

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"], dependencies=[reads], route_class=BoundedRoute)

_WHAT = "predictions"
Against = Annotated[
    str | None,
    Query(
        max_length=16,
        description="What the run is compared with: `teacher`, or the id of a run on the same test images. By default "
        "the teacher, if the run has one.",
    ),
]


@router.get("/predictions", responses=NOT_READY)
def read_predictions(run_id: str, session: SessionDep, results: ResultsDep, against: Against = None) -> RunPredictions:
    """Read what a run predicts for its test images: accuracy by class, calibration, and agreement with a reference.

    404 if the run kept no predictions; 409 if it has not succeeded.
    """
    run, found = _compared(session, results, run_id, against)
    return measures.run_reply(run.id, found, len(pictures(results, run)))


@router.get("/predictions/confusion", responses=NOT_READY)
def read_confusion(
    run_id: str,
    session: SessionDep,
    results: ResultsDep,
    against: Against = None,
    limit: Annotated[int, Query(ge=1, le=20_000, description="Most pairs of classes.")] = 10_000,
) -> ConfusionMatrix:
    """Read how often each class is predicted for images of each class, by the run and by its reference."""
    run, found = _compared(session, results, run_id, against)
    return measures.confusion_reply(run.id, found.reference, found.classes, [found], limit)


@router.get("/predictions/correlations", responses=NOT_READY)
def read_correlations(
    run_id: str, session: SessionDep, results: ResultsDep, against: Against = None
) -> CorrelationDifference:
    """Read by how much the correlations of a run's logits differ from its teacher's, or from another run's.

    404 if a run kept no correlations.
    """
    run = succeeded(session, run_id, _WHAT)
    other = _reference(session, against)
    return correlations.run_reply(results, (run.id, run.attempt), (other.id, other.attempt) if other else None)


@router.get("/predictions/images", responses=NOT_READY)
def read_predicted_images(
    run_id: str,
    session: SessionDep,
    results: ResultsDep,
    against: Against = None,
    kind: Annotated[PredictionKind | None, Query(description="Only images on which this holds.")] = None,
    label: Annotated[str | None, Query(max_length=200, description="Only images of this class.")] = None,
    predicted: Annotated[
        str | None,
        Query(max_length=200, description="Only images that the run or its reference predicts to be of this class."),
    ] = None,
    margin: Annotated[
        float,
        Query(ge=0, le=1, description="Smallest difference between the probabilities of the image's class."),
    ] = 0.0,
    pictured: Annotated[bool, Query(description="Only images that have a picture.")] = False,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Images per page.")] = 50,
) -> PredictedImages:
    """List test images with what the run and its reference predict, the largest difference first."""
    run, found = _compared(session, results, run_id, against)
    for path, name in (("label", label), ("predicted", predicted)):
        if name is not None and name not in found.classes:
            raise invalid(f"{name!r} is no class of this run", ProblemField(path=path, message="unknown class"))
    if found.other is None and kind not in (None, "run_wrong"):
        text = f"{kind!r} compares with a teacher or another run, and this run has no teacher: name a run by `against`"
        raise invalid(text, ProblemField(path="kind", message=text))
    wanted = images.ImageFilter(kind, label, predicted, margin, pictured)
    page, last = images.image_page(
        run.id, found, wanted, _pictured(session, results, run, found), position_of(cursor), limit
    )
    return page if last is None else page.model_copy(update={"next_cursor": cursor_of(last)})


def _compared(session: Session, results: RunResults, run_id: str, against: str | None) -> tuple[models.Run, Compared]:
    run = succeeded(session, run_id, _WHAT)
    other = _reference(session, against)
    return run, compared(results, (run.id, run.attempt), against, (other.id, other.attempt) if other else None)


def _reference(session: Session, against: str | None) -> models.Run | None:
    """Return the run that is the reference; None if it is the teacher."""
    return None if against in (None, TEACHER) else succeeded(session, str(against), _WHAT)


def _pictured(session: Session, results: RunResults, run: models.Run, found: Compared) -> dict[str, set[int]]:
    """Return the numbers of the images with a picture, by run: of the run, its reference and its teacher."""
    ids = dict.fromkeys((run.id, found.reference, run.teacher_run_id))
    runs = [session.get(models.Run, key) for key in ids if key and key != TEACHER]
    return {
        other.id: set(pictures(results, other)) for other in runs if other is not None and other.state == "succeeded"
    }
