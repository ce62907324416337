"""Comparisons of methods: within an experiment, over all metrics, by a paper's claims, and over many experiments."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from backend import comparisons
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.artifacts.finished_runs import ResultsDep
from backend.comparisons import Filter, Layout, render, sheets
from backend.db import models
from backend.predictions import over_images, over_seeds
from backend.predictions.image_scores import ScoresDep
from backend.routes.experiments import find
from core.protocol.comparison_queries import (
    METRIC_GROUPS,
    ClaimsQuery,
    ComparisonQuery,
    Format,
    MeasuredQuery,
    MethodPredictionsQuery,
    OverviewQuery,
    PredictionsQuery,
    PublishedQuery,
    TableQuery,
)
from core.protocol.comparisons import Comparison, MeasuredMetrics, Overview, PaperClaims
from core.protocol.over_images import ComparedOverImages
from core.protocol.predictions import ComparedPredictions, ConfusionMatrix, CorrelationDifference
from core.protocol.result_tables import BesidePublished, PublishedTable, ResultTable

router = APIRouter(prefix="/comparisons", tags=["comparisons"], dependencies=[reads], route_class=BoundedRoute)

_MEDIA: dict[Format, str] = {"csv": "text/csv", "markdown": "text/markdown", "latex": "application/x-tex"}
_TEXT = {"schema": {"type": "string"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": dict.fromkeys(_MEDIA.values(), _TEXT)},
    404: {"description": "There is no such experiment"},
}


@router.get("", responses=_ANSWERS, response_model=Comparison)
def read_comparison(session: SessionDep, query: Annotated[ComparisonQuery, Query()]) -> Comparison | Response:
    """Compare the methods: mean, spread and t interval of each, paired differences to the baseline, and verdicts."""
    comparison = comparisons.compare(session, _experiments(session, query.experiment), query)
    if query.kind == "json":
        return comparison
    sheet_of = render.compact_comparison_sheet if query.kind == "latex" else render.comparison_sheet
    return _text(query.kind, sheet_of(comparison), render.comparison_records(comparison))


@router.get("/overview", responses=_ANSWERS, response_model=Overview)
def read_overview(session: SessionDep, query: Annotated[OverviewQuery, Query()]) -> Overview | Response:
    """Compare the methods by every metric that the students have measured."""
    experiments = _experiments(session, query.experiment)
    overview = comparisons.overview(session, experiments, query, query.group or METRIC_GROUPS)
    if query.kind == "json":
        return overview
    return _text(query.kind, render.overview_sheet(overview), render.overview_records(overview))


@router.get("/claims", responses=_ANSWERS, response_model=PaperClaims)
def read_claims(session: SessionDep, query: Annotated[ClaimsQuery, Query()]) -> PaperClaims | Response:
    """Judge the claims of a paper: holds, does not hold or cannot tell, with the numbers and the reason."""
    claims = comparisons.judge(session, _experiments(session, query.experiment), query, query.paper)
    if query.kind == "json":
        return claims
    return _text(query.kind, render.claims_sheet(claims), render.claims_records(claims))


@router.get("/predictions", responses={404: _ANSWERS[404]})
def read_predictions(
    session: SessionDep, results: ResultsDep, query: Annotated[PredictionsQuery, Query()]
) -> ComparedPredictions:
    """Compare what the methods predict for the test images: accuracy by class over the seeds, and calibration.

    Differences to the baseline are paired by seed, and have t intervals. Runs that kept no predictions are named.
    """
    return over_seeds.compare(session, results, _experiments(session, query.experiment), query.baseline)


@router.get("/predictions/confusion", responses={404: _ANSWERS[404]})
def read_confusion(
    session: SessionDep, results: ResultsDep, query: Annotated[MethodPredictionsQuery, Query()]
) -> ConfusionMatrix:
    """Read how often each class is predicted for images of each, by a method and by what it is compared with.

    Counts are sums over the seeds that both have.
    """
    return over_seeds.confusion(session, results, _experiments(session, query.experiment), query)


@router.get("/predictions/correlations", responses={404: _ANSWERS[404]})
def read_correlations(
    session: SessionDep, results: ResultsDep, query: Annotated[MethodPredictionsQuery, Query()]
) -> CorrelationDifference:
    """Read by how much the correlations of a method's logits differ from the teacher's, as the mean over seeds."""
    return over_seeds.correlations(session, results, _experiments(session, query.experiment), query)


@router.get("/images", responses={404: _ANSWERS[404]})
def read_over_images(
    session: SessionDep, scores: ScoresDep, query: Annotated[PredictionsQuery, Query()]
) -> ComparedOverImages:
    """Compare the methods over the test images: differences to the baseline with paired bootstrap intervals.

    The intervals are for the trained networks and say nothing of other seeds; the test over seeds is
    `GET /comparisons`. Runs are evaluated for some seconds; repeat the request while `pending` is not 0.
    """
    return over_images.compare(session, scores, _experiments(session, query.experiment), query.baseline)


@router.get("/metrics", responses={404: _ANSWERS[404]})
def read_measured(session: SessionDep, query: Annotated[MeasuredQuery, Query()]) -> MeasuredMetrics:
    """Return the names of the metrics that the students of experiments, or single runs, have reported."""
    experiments = [item.id for item in _experiments(session, query.experiment or [])]
    return comparisons.measured_metrics(session, experiments, query.run or ())


@router.get("/table", responses=_ANSWERS, response_model=ResultTable)
def read_table(session: SessionDep, query: Annotated[TableQuery, Query()]) -> ResultTable | Response:
    """Compare many experiments in one table: one row per setting, one column per method.

    A value is bold if a paired test shows that its method is better than the baseline. Verdicts are corrected by Holm
    over all comparisons of the table.
    """
    selection = Filter(tags=query.tag or (), dataset=query.dataset, teacher=query.teacher, student=query.student)
    candidates = [find(session, key) for key in query.experiment] if query.experiment else None
    layout = Layout(
        query.metric or "",
        task=query.task or "",
        which=query.which,
        baseline=query.baseline,
        test=query.test,
        seeds=query.seed or (),
    )
    experiments = comparisons.find(session, selection, candidates)
    if candidates and not query.task:
        comparisons.refuse_several_tasks(experiments)
    table = comparisons.table(session, experiments, layout)
    if query.kind == "json":
        return table
    sheet = render.table_sheet(table)
    return _text(query.kind, render.by_method(sheet) if query.kind == "latex" else sheet, render.table_records(table))


@router.get("/published")
def read_published() -> PublishedTable:
    """Return the rows of published tables, as printed."""
    return comparisons.published()


@router.get("/published/measured")
def read_beside_published(session: SessionDep, query: Annotated[PublishedQuery, Query()]) -> BesidePublished:
    """Return published numbers, each with the results measured here for the same networks and the same method."""
    selection = Filter(tags=query.tag or (), dataset=query.dataset, teacher=query.teacher, student=query.student)
    return comparisons.beside_published(session, selection)


def _experiments(session: Session, keys: list[str]) -> list[models.Experiment]:
    return list(dict.fromkeys(find(session, key) for key in keys))


def _text(kind: Format, sheet: sheets.Sheet, records: list[dict[str, Any]]) -> Response:
    if kind == "csv":
        text = sheets.csv_text(records)
    else:
        text = sheets.markdown(sheet) if kind == "markdown" else sheets.latex(sheet)
    return Response(text, media_type=_MEDIA[kind])
