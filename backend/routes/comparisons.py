"""Methods side by side: one experiment's comparison, overview and claims, and the paper's table over many."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from backend import comparisons
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.comparisons import Filter, Layout, Options, render, sheets
from backend.db import models
from backend.routes.experiments import find
from core.protocol.comparisons import Comparison, EpochChoice, Overview, PaperClaims, PublishedTable, ResultTable
from core.specs.components import Seed

router = APIRouter(prefix="/comparisons", tags=["comparisons"], dependencies=[reads], route_class=BoundedRoute)

Format = Literal["json", "csv", "markdown", "latex"]
FormatParam = Annotated[Format, Query(alias="format", description="Of the answer; all but JSON are texts.")]
_MEDIA: dict[Format, str] = {"csv": "text/csv", "markdown": "text/markdown", "latex": "application/x-tex"}
_TEXT = {"schema": {"type": "string"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": dict.fromkeys(_MEDIA.values(), _TEXT)},
    404: {"description": "There is no such experiment"},
}
_METRIC = Annotated[str, Query(max_length=200, description="Whose value is compared.")]
_WHICH = Annotated[EpochChoice, Query(description="At which epoch; an oracle is shown and never tested.")]
_BASELINE = Annotated[
    str | None, Query(max_length=60, description="A method's label; left out, the first method of the spec.")
]


def _experiments(
    session: SessionDep,
    experiment: Annotated[
        list[str],
        Query(
            min_length=1,
            max_length=200,
            description="Its id or its name. Several are read as one: they may differ in their seeds, and their "
            "teachers' seeds, alone.",
        ),
    ],
) -> list[models.Experiment]:
    return list(dict.fromkeys(find(session, key) for key in experiment))


def _options(
    baseline: _BASELINE = None,
    metric: _METRIC = comparisons.ACCURACY,
    which: _WHICH = "last",
    target_share: Annotated[
        float, Query(gt=0, le=2, description="Of the teacher's accuracy, that convergence is measured to.")
    ] = 0.95,
    target: Annotated[float | None, Query(gt=0, le=100, description="Instead: an accuracy in %.")] = None,
    difference: Annotated[
        float | None,
        Query(gt=0, allow_inf_nan=False, description="That one wants to see: how many seeds would it take?"),
    ] = None,
) -> Options:
    return Options(
        baseline=baseline,
        metric=metric,
        which=which,
        target_share=target_share,
        target=target,
        difference=difference,
    )


ExperimentsDep = Annotated[list[models.Experiment], Depends(_experiments)]
OptionsDep = Annotated[Options, Depends(_options)]


@router.get("", responses=_ANSWERS, response_model=Comparison)
def read_comparison(
    session: SessionDep, experiments: ExperimentsDep, options: OptionsDep, kind: FormatParam = "json"
) -> Comparison | Response:
    """Mean, spread and t interval of each method, its paired difference to the baseline, and what n allows to say."""
    found = comparisons.build(session, experiments, options)
    if kind == "json":
        return found
    return _text(kind, render.comparison_sheet(found), render.comparison_records(found))


@router.get("/overview", responses=_ANSWERS, response_model=Overview)
def read_overview(
    session: SessionDep,
    experiments: ExperimentsDep,
    options: OptionsDep,
    group: Annotated[
        list[str] | None,
        Query(max_length=50, description=f"Part of a metric's name before the slash: {', '.join(comparisons.GROUPS)}."),
    ] = None,
    kind: FormatParam = "json",
) -> Overview | Response:
    """Every metric that the students end with, each compared as the accuracy is."""
    found = comparisons.overview(session, experiments, options, group or comparisons.GROUPS)
    if kind == "json":
        return found
    return _text(kind, render.overview_sheet(found), render.overview_records(found))


@router.get("/claims", responses=_ANSWERS, response_model=PaperClaims)
def read_claims(
    session: SessionDep,
    experiments: ExperimentsDep,
    options: OptionsDep,
    paper: Annotated[
        str | None,
        Query(max_length=100, description="Name of the paper; by default the first that has claims."),
    ] = None,
    kind: FormatParam = "json",
) -> PaperClaims | Response:
    """Judge the claims of a paper: holds, does not hold or cannot tell, with the numbers and the reason."""
    found = comparisons.judge(session, experiments, options, paper)
    if kind == "json":
        return found
    return _text(kind, render.claims_sheet(found), render.claims_records(found))


@router.get("/table", responses=_ANSWERS, response_model=ResultTable)
def read_table(
    session: SessionDep,
    experiment: Annotated[
        list[str] | None,
        Query(max_length=200, description="Ids or names; left out, all that the filters keep and nobody archived."),
    ] = None,
    tag: Annotated[list[str] | None, Query(max_length=50, description="An experiment needs every one of them.")] = None,
    dataset: Annotated[str | None, Query(max_length=100, description="Only rows of this data set.")] = None,
    teacher: Annotated[str | None, Query(max_length=100, description="The teacher's model.")] = None,
    student: Annotated[str | None, Query(max_length=100, description="The student's model.")] = None,
    metric: _METRIC = comparisons.ACCURACY,
    which: _WHICH = "last",
    baseline: Annotated[
        str | None,
        Query(
            max_length=60,
            description="Label of the column that others are tested against; left out, the method that every row "
            "begins with, or else the one that most rows have.",
        ),
    ] = None,
    test: Annotated[
        Literal["sign_flip", "t"],
        Query(description="What decides on bold: the exact sign-flip test, or t, which assumes normal differences."),
    ] = "sign_flip",
    seed: Annotated[
        list[Seed] | None,
        Query(max_length=1000, description="That every cell should have; left out, those that a row's specs name."),
    ] = None,
    kind: FormatParam = "json",
) -> ResultTable | Response:
    """Rows dataset-teacher-student, columns methods; bold only where the test supports it after Holm over the table."""
    wanted = Filter(tags=list(tag or ()), dataset=dataset, teacher=teacher, student=student)
    named = [find(session, key) for key in experiment] if experiment else None
    chosen = comparisons.find(session, wanted, named)
    layout = Layout(metric, which=which, baseline=baseline, test=test, seeds=seed or ())
    found = comparisons.table(session, chosen, layout)
    if kind == "json":
        return found
    return _text(kind, render.table_sheet(found), render.table_records(found))


@router.get("/published")
def read_published() -> PublishedTable:
    """Return the rows of published tables, as printed."""
    return comparisons.published()


def _text(kind: Format, sheet: sheets.Sheet, records: list[dict[str, Any]]) -> Response:
    if kind == "csv":
        text = sheets.csv_text(records)
    else:
        text = sheets.markdown(sheet) if kind == "markdown" else sheets.latex(sheet)
    return Response(text, media_type=_MEDIA[kind])
