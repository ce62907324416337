"""Bodies that FastAPI does not validate: specs, which ``core.specs`` validates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request

from backend.api.boundary import parse
from backend.api.dependencies import SubmitterDep, submits
from backend.api.idempotency import KeyedRequest
from backend.db import Database
from backend.people import rights
from backend.queue.nudge_debouncer import NudgeDebouncer
from backend.settings import Settings
from backend.tokens import Principal
from core.protocol.people import PROJECT_NAME
from core.specs import ExperimentSpec, Problem, SpecError, parse_experiment

KEY_LENGTH = 200
_SMALL_SPEC = 8 * 1024
"""Bytes of a spec that is parsed in about three milliseconds."""


class Body:
    """A request's JSON, with the length and the hash of its bytes."""

    def __init__(self, data: Any, raw: bytes) -> None:
        self.data = data
        self.size = len(raw)
        self.sha256 = hashlib.sha256(raw).hexdigest()

    async def spec(self) -> ExperimentSpec:
        """Return the body as a spec.

        Raises:
            SpecError: The body is not a valid spec.
        """
        return await parse(self.size <= _SMALL_SPEC, parse_experiment, self.data)


async def read_body(request: Request, _: Annotated[Principal, submits]) -> Body:
    """Return the body, which the route has read within its limits."""
    raw = await request.body()
    if not raw:
        raise SpecError([Problem("", "the body is not JSON: it is empty")])
    return Body(await request.json(), raw)


# ``parse_experiment`` validates the spec, as in the command line and in the form, so that all three report the same
# paths and messages; the framework only reads the bytes.
BodyDep = Annotated[Body, Depends(read_body)]
_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH,
        description="Any text that the client chooses. Repeating a request with the same key creates nothing twice.",
    ),
]


ProjectParameter = Annotated[
    str | None,
    Query(
        pattern=PROJECT_NAME,
        description="Name of the project in which it is created. If left out: the default project, or for a person who "
        "may not submit there, the only project where the person may.",
    ),
]


@dataclass(frozen=True)
class SubmissionRequest:
    """A request that creates experiments, with what its endpoint needs to answer it.

    Attributes:
        body: The body.
        keyed: The request's identity, so that repeating it creates nothing twice; None without an ``Idempotency-Key``.
        principal: The sender of the request.
        project: Name of the project in which they are created.
    """

    body: Body
    keyed: KeyedRequest | None
    principal: Principal
    database: Database
    settings: Settings
    nudges: NudgeDebouncer
    project: str


# One dependency instead of one for each attribute: FastAPI would take as long for those as the insert takes.
async def read_submission(
    request: Request, principal: SubmitterDep, key: _Key = None, project: ProjectParameter = None
) -> SubmissionRequest:
    """Return the request, whose body the route has read within its limits."""
    target = rights.target(project)
    body = await read_body(request, principal)
    keyed = KeyedRequest(principal.token_id, key, body.sha256) if key else None
    state = request.app.state
    return SubmissionRequest(body, keyed, principal, state.database, state.settings, state.nudges, target)


SubmissionDep = Annotated[SubmissionRequest, Depends(read_submission)]
