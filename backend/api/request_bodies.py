"""Bodies that are not for FastAPI to judge: a spec, which is ``core.specs``'s, and the long ones of the workers."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from backend.api.dependencies import submits
from backend.tokens import Principal
from common.input_bounds import first_problems
from core.specs import Problem, SpecError

Model = TypeVar("Model", bound=BaseModel)

KEY_LENGTH = 200


class Body:
    """A request's JSON, with the hash of its bytes."""

    def __init__(self, data: Any, sha256: str) -> None:
        self.data = data
        self.sha256 = sha256


async def read_body(request: Request, _: Annotated[Principal, submits]) -> Body:
    """The body that the route's bounds have read."""
    raw = await request.body()
    if not raw:
        raise SpecError([Problem("", "the body is not JSON: it is empty")])
    return Body(await request.json(), hashlib.sha256(raw).hexdigest())


async def _raw(request: Request) -> bytes:
    return await request.body()


def parsed(model: type[Model], raw: bytes) -> Model:
    """A body as one of our shapes, read in one go and in the thread of the route. FastAPI would read it to dicts first,
    and have nothing else served meanwhile. Raises RequestValidationError with every problem's path."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problems, more = first_problems(error)
        if more:
            problems.append({"type": "more", "loc": (), "msg": f"and {more} more problems"})
        raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in problems]) from None


RawDep = Annotated[bytes, Depends(_raw)]
"""To be asked for behind the right to send it, so that nothing is read of whoever does not have it."""
# The spec is judged by ``parse_experiment``, as in the command line and the form, so that every path and sentence is
# the same in all three; the framework only reads the bytes.
BodyDep = Annotated[Body, Depends(read_body)]
KeyDep = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH,
        description="Any text of your own; the same request sent again with it makes nothing new.",
    ),
]
