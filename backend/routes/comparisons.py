"""The methods of one experiment side by side."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from backend import comparisons
from backend.comparisons import Options
from backend.db import models
from backend.deps import SessionDep, reads
from backend.routes.experiments import find
from backend.texts import clean
from core.wire.comparisons import Claims, Comparison, Overview, Which

router = APIRouter(prefix="/comparisons", tags=["comparisons"], dependencies=[reads])


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
    baseline: Annotated[str | None, Query(description="A method's label; left out, the spec's first method.")] = None,
    metric: Annotated[str, Query(max_length=200, description="Whose value is compared.")] = comparisons.ACCURACY,
    which: Annotated[Which, Query(description="At which epoch; an oracle is shown and never tested.")] = "last",
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
        metric=clean(metric),
        which=which,
        target_share=target_share,
        target=target,
        difference=difference,
    )


ExperimentsDep = Annotated[list[models.Experiment], Depends(_experiments)]
OptionsDep = Annotated[Options, Depends(_options)]
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such experiment"}}


@router.get("", responses=_MISSING)
def read_comparison(session: SessionDep, experiments: ExperimentsDep, options: OptionsDep) -> Comparison:
    """Mean, spread and t interval of each method, its paired difference to the baseline, and what n allows to say."""
    return comparisons.build(session, experiments, options)


@router.get("/overview", responses=_MISSING)
def read_overview(
    session: SessionDep,
    experiments: ExperimentsDep,
    options: OptionsDep,
    group: Annotated[
        list[str] | None,
        Query(max_length=50, description=f"Part of a metric's name before the slash: {', '.join(comparisons.GROUPS)}."),
    ] = None,
) -> Overview:
    """Every metric that the students end with, each compared as the accuracy is."""
    return comparisons.overview(session, experiments, options, group or comparisons.GROUPS)


@router.get("/claims", responses=_MISSING)
def read_claims(session: SessionDep, experiments: ExperimentsDep, options: OptionsDep) -> Claims:
    """The author's five claims: holds, does not hold or cannot tell, with the numbers and the reason."""
    return comparisons.judge(session, experiments, options)
