"""A way to a route past FastAPI's parameters, for the two that are asked again and again while somebody waits.

FastAPI finds each parameter of a function anew with each request; that takes as long as storing what was sent. A
request that is in order is spared it. Of any other, FastAPI says what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes

from backend.deps import authorize, bearer
from backend.tokens import Principal

Arguments = Callable[[Request, Principal], Awaitable[dict[str, Any] | None]]
# The framework's own threads take and give a call in twice the time. As many as may share a commit.
_threads = ThreadPoolExecutor(32, thread_name_prefix="short-way")


def short_way(scope: str, arguments: Arguments) -> type[APIRoute]:
    """A route whose function is called, in a thread, with what ``arguments`` makes of the request.

    Args:
        scope: what the request's token must reach.
        arguments: returns None to leave the request to FastAPI. One with a query in its address it is not asked about.
    """
    needed = SecurityScopes([scope])

    class ShortWay(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            function, long_way = self.endpoint, super().get_route_handler()

            async def handle(request: Request) -> Response:
                credentials = await bearer(request)
                if credentials is None or request.scope["query_string"]:
                    return await long_way(request)
                principal = await authorize(needed, request, credentials)
                given = await arguments(request, principal)
                if given is None:
                    return await long_way(request)
                call = partial(function, **given)
                answer: Response = await asyncio.get_running_loop().run_in_executor(_threads, call)
                return answer

            return handle

    return ShortWay
