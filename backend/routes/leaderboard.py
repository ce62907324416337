"""The leaderboard over many experiments."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import comparisons
from backend.api.boundary import BoundedRoute
from backend.api.dependencies import SessionDep, reads
from backend.comparisons import Filter, leaderboard_page, leaderboard_render, sheets
from backend.comparisons.leaderboard import Selection
from backend.db import models
from backend.errors import invalid, not_found
from backend.routes.experiments import find
from core.protocol.comparison_queries import LeaderboardFormat, LeaderboardQuery
from core.protocol.leaderboards import Leaderboard
from core.protocol.public import ProblemField

router = APIRouter(prefix="/leaderboard", tags=["comparisons"], dependencies=[reads], route_class=BoundedRoute)

_MEDIA: dict[LeaderboardFormat, str] = {
    "csv": "text/csv",
    "markdown": "text/markdown",
    "latex": "application/x-tex",
    "html": "text/html",
}
_TEXT = {"schema": {"type": "string"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": dict.fromkeys(_MEDIA.values(), _TEXT)},
    404: {"description": "There is no such experiment, or no such sweep"},
}
# The page has its styles and figures in itself, no scripts, and nothing that it could load.
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
_MAX_TAGS = 10


@router.get("", responses=_ANSWERS, response_model=Leaderboard)
def read_leaderboard(
    session: SessionDep, request: Request, query: Annotated[LeaderboardQuery, Query()]
) -> Leaderboard | Response:
    """Rank methods over settings, by the headline metric after the last epoch.

    A setting is a data set with its parameters, a teacher, a student and a training. Mean ranks are over the settings
    that have all methods over common seeds. Differences to the baseline are paired by seed and corrected by Holm over
    all comparisons. The answer names every experiment and run that it is made from.
    """
    _refuse_unknown(session, query)
    candidates = [find(session, key) for key in query.experiment] if query.experiment else None
    experiments = comparisons.find(session, Filter(tags=query.tag or (), sweep=query.sweep), candidates)
    if candidates and not query.task:
        comparisons.refuse_several_tasks(experiments)
    selection = Selection(query.task or "", query.baseline, query.without or ())
    board = comparisons.leaderboard(session, experiments, selection)
    board = board.model_copy(update={"address": str(request.base_url).rstrip("/")})
    match query.kind:
        case "json":
            return board
        case "html":
            headers = {"Content-Security-Policy": _PAGE_POLICY}
            return Response(leaderboard_page.html(board), media_type=_MEDIA["html"], headers=headers)
        case "csv":
            text = sheets.csv_text(leaderboard_render.records(board))
        case "markdown":
            text = sheets.markdown(leaderboard_render.sheet(board))
        case "latex":
            text = sheets.latex(leaderboard_render.sheet(board))
    return Response(text, media_type=_MEDIA[query.kind])


def _refuse_unknown(session: Session, query: LeaderboardQuery) -> None:
    """Refuse tags that no experiment has, and an unknown sweep: an empty leaderboard would not say why.

    Raises:
        ApiError: 422 for a tag, 404 for a sweep.
    """
    table = models.ExperimentTag
    tags = set(session.scalars(select(table.tag).where(table.tag.in_(query.tag)))) if query.tag else set()
    unknown = [(index, tag) for index, tag in enumerate(query.tag or ()) if tag not in tags]
    if unknown:
        present = list(session.scalars(select(table.tag).distinct().order_by(table.tag).limit(_MAX_TAGS + 1)))
        shown = ", ".join(present[:_MAX_TAGS]) + (" and others" if len(present) > _MAX_TAGS else "")
        named = f"there are {shown}" if present else "no experiment has tags"
        problems = [
            ProblemField(path=f"tag.{index}", message=f"no experiment has the tag {tag!r}; {named}")
            for index, tag in unknown
        ]
        raise invalid("; ".join(problem.message for problem in problems[:1]), *problems)
    in_sweep = select(models.Experiment.id).where(models.Experiment.sweep == query.sweep).limit(1)
    if query.sweep is not None and session.scalar(in_sweep) is None:
        raise not_found("sweep", query.sweep)
