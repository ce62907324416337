"""The methods of one experiment side by side."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from backend import comparison
from backend.deps import SessionDep, reads
from backend.routes.experiments import find
from backend.texts import clean
from core.wire.public import Comparison

router = APIRouter(tags=["comparisons"], dependencies=[reads])


@router.get("/comparisons", responses={404: {"description": "There is no such experiment"}})
def read_comparison(
    session: SessionDep,
    experiment: Annotated[str, Query(description="Its id or its name.")],
    baseline: Annotated[str | None, Query(description="A method's label; left out, the spec's first method.")] = None,
    metric: Annotated[str, Query(description="Whose value after the last epoch is compared.")] = comparison.ACCURACY,
    target_share: Annotated[
        float, Query(gt=0, le=2, description="Of the teacher's accuracy, that convergence is measured to.")
    ] = 0.95,
) -> Comparison:
    """Mean, spread and t interval of each method, its paired difference to the baseline, and what n allows to say."""
    found = find(session, experiment)
    metric = clean(metric)
    return comparison.build(session, found, baseline=baseline, metric=metric, target_share=target_share)
