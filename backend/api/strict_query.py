"""What a request asks for by name: what no route knows is refused, and not passed over without a word."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel


async def refuse_unknown(request: Request) -> None:
    """A filter that is misspelt would show the wrong rows. Raises RequestValidationError with every such name."""
    if request.scope["query_string"]:
        route: APIRoute = request.scope["route"]
        known = list(dict.fromkeys(_names(route.dependant)))
        there = f"there are {', '.join(known)}" if known else "there are none here"
        unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
        if unknown:
            message = f"no such parameter; {there}"
            raise RequestValidationError(
                [{"type": "extra_forbidden", "loc": ("query", name), "msg": message} for name in unknown]
            )


def _names(dependant: Dependant) -> list[str]:
    found: list[str] = []
    for parameter in dependant.query_params:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):  # one that stands for all its fields
            found += [field.alias or name for name, field in kind.model_fields.items()]
        else:
            found.append(parameter.alias)
    return found + [name for inner in dependant.dependencies for name in _names(inner)]
