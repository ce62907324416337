"""Bodies that are not for FastAPI to judge: a spec, which is ``core.spec``'s, and the long ones of the workers."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from backend.deps import submits
from backend.texts import first_unfit
from backend.tokens import Principal
from core.spec import Problem, SpecError

Model = TypeVar("Model", bound=BaseModel)

KEY_LENGTH = 200


class Body:
    """A request's JSON, with the hash of its bytes."""

    def __init__(self, data: Any, sha256: str) -> None:
        self.data = data
        self.sha256 = sha256


async def read_body(request: Request, _: Annotated[Principal, submits]) -> Body:
    """Whoever may not submit has nothing read."""
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


async def _raw(request: Request) -> bytes:
    return await request.body()


def parsed(model: type[Model], raw: bytes) -> Model:
    """A body as one of our shapes, read in one go and in the thread of the route. FastAPI would read it to dicts first,
    and have nothing else served meanwhile. Raises RequestValidationError with every problem's path."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
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
