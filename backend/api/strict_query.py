"""Query parameters that a route does not have are refused instead of ignored."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel


async def refuse_unknown(request: Request) -> None:
    """Refuse unknown query parameters: if a misspelt filter were ignored, the list would show the wrong rows.

    Raises:
        RequestValidationError: One problem per unknown parameter.
    """
    if request.scope["query_string"]:
        route: APIRoute = request.scope["route"]
        parameters = list(dict.fromkeys(_names(route.dependant)))
        unknown = [name for name in dict.fromkeys(request.query_params) if name not in parameters]
        if unknown:
            available = f"its parameters are {', '.join(parameters)}" if parameters else "it has no parameters"
            message = f"this route has no such parameter; {available}"
            raise RequestValidationError(
                [{"type": "extra_forbidden", "loc": ("query", name), "msg": message} for name in unknown]
            )


def _names(dependant: Dependant) -> list[str]:
    names: list[str] = []
    for parameter in dependant.query_params:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):  # a query model: each of its fields is a parameter
            names += [field.alias or name for name, field in kind.model_fields.items()]
        else:
            names.append(parameter.alias)
    return names + [name for inner in dependant.dependencies for name in _names(inner)]
