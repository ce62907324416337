"""Experiments: submit, preview, list, look at, cancel, pause, resume, put before others."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import idempotency, lifecycle, pausing, planning, views
from backend.db import Database, now
from backend.db.models import Experiment
from backend.deps import DatabaseDep, NudgerDep, SessionDep, SubmitterDep, reads, submits
from backend.errors import ApiError, not_found
from backend.openapi import SPEC_BODY
from backend.pages import Cursor, Limit, decode_cursor, encode_cursor
from backend.reconciler import send_nudges
from backend.texts import first_unfit
from core.spec import ExperimentSpec, Problem, SpecError, parse_experiment
from core.wire import public

router = APIRouter(prefix="/experiments", tags=["experiments"])


class Body:
    """A request's JSON, with the hash of its bytes."""

    def __init__(self, data: Any, sha256: str) -> None:
        self.data = data
        self.sha256 = sha256


async def _body(request: Request) -> Body:
    raw = await request.body()
    try:
        data = json.loads(raw, parse_constant=_refuse_constant, object_pairs_hook=_unique_fields)
    except (ValueError, RecursionError) as error:
        raise SpecError([Problem("", f"the body is not JSON: {error}")]) from None
    unfit = first_unfit(data)
    if unfit is not None:
        raise SpecError([Problem(unfit, "contains a character that is not text")])
    return Body(data, hashlib.sha256(raw).hexdigest())


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON keeps the last of two equal fields and says nothing; a person who wrote both is told instead."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# The spec is judged by ``parse_experiment``, as in the command line and the form, so that every path and sentence is
# the same in all three; the framework only reads the bytes.
BodyDep = Annotated[Body, Depends(_body)]
KeyDep = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Any text of your own; the same request sent again with it makes nothing new.",
    ),
]


@router.post(
    "",
    status_code=201,
    openapi_extra=SPEC_BODY,
    responses={409: {"description": "Somebody else changed the same thing at the same moment; repeat it"}},
)
def submit(
    body: BodyDep,
    principal: SubmitterDep,
    database: DatabaseDep,
    nudger: NudgerDep,
    tasks: BackgroundTasks,
    key: KeyDep = None,
) -> public.Experiment:
    """Submit an experiment: all of its runs are made, or nothing is.

    422 with the path of every refused field; a name that is taken is one.
    """
    spec = parse_experiment(body.data)
    with database.write() as session:
        request = idempotency.Request(principal.token_id, key, body.sha256) if key else None
        experiment_id = (_known(session, request) or _create(session, spec, request, principal.name)).id
    tasks.add_task(send_nudges, database, nudger)
    return _whole(database, experiment_id)


@router.post("/preview", dependencies=[submits], openapi_extra=SPEC_BODY)
def preview(body: BodyDep, session: SessionDep) -> public.Preview:
    """What a spec would make, and what to know before; nothing is stored."""
    return planning.preview(session, parse_experiment(body.data))


@router.get("", dependencies=[reads])
def experiments(
    session: SessionDep,
    cursor: Cursor = None,
    limit: Limit = 50,
    text: Annotated[str | None, Query(max_length=100, description="Part of the name.")] = None,
) -> public.ExperimentPage:
    """Experiments, newest first."""
    query = select(Experiment).order_by(Experiment.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(Experiment.id < decode_cursor(cursor))
    if text:
        query = query.where(Experiment.name.icontains(text.replace("\0", ""), autoescape=True))
    rows = list(session.scalars(query))
    more = len(rows) > limit
    return public.ExperimentPage(
        items=views.experiment_summaries(session, rows[:limit]),
        next_cursor=encode_cursor(rows[limit - 1].id) if more else None,
    )


# ``:path``, since a name may hold a slash.
@router.get("/{key:path}", dependencies=[reads])
def experiment(key: str, session: SessionDep) -> public.Experiment:
    """An experiment with its runs, by its id or its name."""
    return views.whole_experiment(session, find(session, key))


@router.post("/{key:path}/cancel", dependencies=[submits])
def cancel(key: str, database: DatabaseDep) -> public.Experiment:
    """Cancel every run that has not ended; a teacher only where no other experiment needs it. Repeating is harmless."""
    with database.write() as session:
        experiment_id = find(session, key).id
        lifecycle.cancel_experiment(session, experiment_id, now(session))
    return _whole(database, experiment_id)


@router.post("/{key:path}/pause", dependencies=[submits])
def pause(key: str, database: DatabaseDep) -> public.Experiment:
    """Pause every run that has not ended; a teacher only where no other experiment waits for it.

    Runs that train are `pausing` until their workers have handed them back with a checkpoint. Repeating is harmless.
    """
    with database.write() as session:
        experiment_id = find(session, key).id
        pausing.pause_experiment(session, experiment_id)
    return _whole(database, experiment_id)


@router.post("/{key:path}/resume", dependencies=[submits])
def resume(key: str, database: DatabaseDep, nudger: NudgerDep, tasks: BackgroundTasks) -> public.Experiment:
    """Let every paused run go on, from its checkpoint. Repeating is harmless."""
    with database.write() as session:
        experiment_id = find(session, key).id
        pausing.resume_experiment(session, experiment_id, now(session))
    tasks.add_task(send_nudges, database, nudger)
    return _whole(database, experiment_id)


@router.post("/{key:path}/priority", dependencies=[submits])
def priority(key: str, change: public.PriorityChange, database: DatabaseDep) -> public.Experiment:
    """Change the priority of every run that has not ended.

    A teacher that other experiments wait for too keeps the highest among them.
    """
    with database.write() as session:
        experiment_id = find(session, key).id
        lifecycle.set_experiment_priority(session, experiment_id, change.priority)
    return _whole(database, experiment_id)


def _whole(database: Database, experiment_id: str) -> public.Experiment:
    # After the commit: reading thousands of runs would hold SQLite's one writer up.
    with database.read() as session:
        return views.whole_experiment(session, session.get_one(Experiment, experiment_id))


def find(session: Session, key: str) -> Experiment:
    """An experiment by its id, else by its name. Raises ApiError 404."""
    if "\0" in key:
        raise not_found("experiment", key)
    found = session.get(Experiment, key) or session.scalars(select(Experiment).where(Experiment.name == key)).first()
    if found is None:
        raise not_found("experiment", key)
    return found


def _known(session: Session, request: idempotency.Request | None) -> Experiment | None:
    known = idempotency.find(session, request) if request else None
    return session.get(Experiment, known[0]) if known else None


def _create(session: Session, spec: ExperimentSpec, request: idempotency.Request | None, by: str) -> Experiment:
    try:
        experiment = planning.create(session, spec, submitted_by=by)
    except ApiError:
        # The same request, sent to another replica at the same moment, may have taken the name.
        known = _known(session, request)
        if known is None:
            raise
        return known
    if request and not idempotency.keep(session, request, [experiment.id], experiment.created_at):
        raise idempotency.reused()
    return experiment
