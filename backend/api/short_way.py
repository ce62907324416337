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

from backend.api.boundary import BoundedRoute
from backend.api.dependencies import admit
from backend.tokens import Principal

Arguments = Callable[[Request, Principal], Awaitable[dict[str, Any] | None]]
# The framework's own threads take and give a call in twice the time. As many as may share a commit.
_threads = ThreadPoolExecutor(32, thread_name_prefix="short-way")


def short_way(scope: str, arguments: Arguments) -> type[BoundedRoute]:
    """A route whose function is called, in a thread, with what ``arguments`` makes of the request.

    Args:
        scope: what the request's token must reach.
        arguments: returns None to leave the request to FastAPI. One with a query in its address it is not asked about.
    """

    class ShortWay(BoundedRoute):
        def bounded(self, inner: Callable[[Request], Coroutine[Any, Any, Response]]) -> Any:
            function, long_way = self.endpoint, inner

            async def handle(request: Request) -> Response:
                if request.scope["query_string"]:
                    return await long_way(request)
                principal = await admit([scope], request)
                given = await arguments(request, principal)
                if given is None:
                    return await long_way(request)
                call = partial(function, **given)
                answer: Response = await asyncio.get_running_loop().run_in_executor(_threads, call)
                return answer

            return super().bounded(handle)

    return ShortWay
