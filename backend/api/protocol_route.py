"""Routes of the worker protocol, which are called without FastAPI's dependency injection.

A training reports a few times a second, and resolving the parameters of an endpoint by injection takes as long as
storing five metrics. FastAPI still describes these routes, from the signatures of their endpoints.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.types import Scope

from backend.api.boundary import SMALL_BODY, BoundedRoute, Handler, parse
from backend.api.dependencies import admit
from backend.api.strict_query import refuse_unknown
from backend.db import Database
from backend.queue.nudge_debouncer import NudgeDebouncer
from backend.settings import Settings
from backend.tokens import Principal
from common.input_bounds import first_problems


class ProtocolRequest(Request):
    """A worker's request, with the objects that an endpoint uses to answer it.

    Attributes:
        principal: Principal of the request's token.
    """

    def __init__(self, scope: Scope, principal: Principal) -> None:
        super().__init__(scope)
        self.principal = principal
        self.database: Database = self.app.state.database
        self.settings: Settings = self.app.state.settings
        self.nudges: NudgeDebouncer = self.app.state.nudges


class ProtocolRoute(BoundedRoute):
    """A route whose endpoint is awaited with the request, the ids of the path and the validated body.

    The endpoint is an ``async def`` with the parameters ``request: ProtocolRequest``, one for each id in the path, and
    one for the body, which may have a default. It returns a pydantic model, or None for an empty answer.
    """

    def get_route_handler(self) -> Handler:
        field = self.body_field
        assert field is not None
        assert field.field_info.annotation is not None
        body_type: TypeAdapter[Any] = TypeAdapter(field.field_info.annotation)

        async def handle(request: Request) -> Response:
            await refuse_unknown(request)
            arguments = dict(request.path_params)
            raw = await request.body()
            if raw or field.field_info.is_required():
                arguments[field.name] = await parse(len(raw) <= SMALL_BODY, _validate, body_type, raw)
            reply = await self.endpoint(ProtocolRequest(request.scope, await admit((), request)), **arguments)
            status = self.status_code or 200
            if reply is None:
                return Response(status_code=status)
            return Response(reply.model_dump_json(), status, media_type="application/json")

        return self.bounded(handle)


def _validate(body_type: TypeAdapter[Any], raw: bytes) -> Any:
    """Parse and validate a body in one step.

    Raises:
        RequestValidationError: The body is not valid; the error has the path of every problem.
    """
    try:
        return body_type.validate_json(raw)
    except ValidationError as error:
        problems, more = first_problems(error)
        if more:
            problems.append({"type": "more", "loc": (), "msg": f"and {more} more problems"})
        raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in problems]) from None
