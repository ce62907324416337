"""The middleware of every request."""

from __future__ import annotations

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from backend.api.middleware import AccessLog


@pytest.mark.parametrize(
    ("errors", "silent"),
    [([anyio.BrokenResourceError()], True), ([anyio.BrokenResourceError(), ValueError("ours")], False)],
)
def test_client_that_leaves_a_stream_causes_no_error(errors: list[Exception], silent: bool) -> None:
    """FastAPI raises this group if the client of an event stream has disconnected."""

    async def left(scope: Scope, receive: Receive, send: Send) -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", errors)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    async def request() -> None:
        scope = {"type": "http", "method": "GET", "path": "/api/v1/runs/x/events"}
        await AccessLog(left)(scope, receive, send)

    if silent:
        anyio.run(request)
    else:
        with pytest.raises(ExceptionGroup):
            anyio.run(request)
