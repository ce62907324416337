"""Bodies that FastAPI does not validate: specs, which ``core.specs`` validates."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from backend.api.dependencies import submits
from backend.tokens import Principal
from core.specs import Problem, SpecError

KEY_LENGTH = 200


class Body:
    """A request's JSON, with the hash of its bytes."""

    def __init__(self, data: Any, sha256: str) -> None:
        self.data = data
        self.sha256 = sha256


async def read_body(request: Request, _: Annotated[Principal, submits]) -> Body:
    """Return the body, which the route has read within its limits."""
    raw = await request.body()
    if not raw:
        raise SpecError([Problem("", "the body is not JSON: it is empty")])
    return Body(await request.json(), hashlib.sha256(raw).hexdigest())


# ``parse_experiment`` validates the spec, as in the command line and in the form, so that all three report the same
# paths and messages; the framework only reads the bytes.
BodyDep = Annotated[Body, Depends(read_body)]
KeyDep = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH,
        description="Any text that the client chooses. Repeating a request with the same key creates nothing twice.",
    ),
]
