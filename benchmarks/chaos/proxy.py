"""A TCP proxy between a worker and the backend or the broker, whose connections can be broken."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, Literal

Mode = Literal["open", "refused", "frozen", "mute"]
"""open: forward everything. refused: end connections. frozen: keep them and forward nothing. mute: drop answers."""


class ProxyLoop:
    """An event loop in a thread of its own, shared by all proxies."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def add(self, server: asyncio.Server) -> None:
        """Register a server, which is closed with the loop."""
        self._servers.append(server)

    def close(self) -> None:
        self.call(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel(self) -> None:
        for server in self._servers:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Proxy:
    """Listens on a port of its own and forwards to another one."""

    def __init__(self, loop: ProxyLoop, upstream: int) -> None:
        self._loop = loop
        self._upstream = upstream
        self._mode: Mode = "open"
        self._writers: set[asyncio.StreamWriter] = set()
        self._thawed: asyncio.Event
        self.port: int = loop.call(self._listen())

    def set(self, mode: Mode) -> None:
        self._loop.call(self._set(mode))

    async def _listen(self) -> int:
        self._thawed = asyncio.Event()
        self._thawed.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._loop.add(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _set(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        if mode == "frozen":
            self._thawed.clear()
        else:
            self._thawed.set()
        if mode == "refused" or before == "mute":  # a stream with a gap is of no use
            for writer in list(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            await self._thawed.wait()
            if self._mode == "refused":
                return
            answers, other = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._writers.add(other)
            pumps = [
                asyncio.create_task(self._pump(reader, other, answer=False)),
                asyncio.create_task(self._pump(answers, writer, answer=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:  # the other side does not listen now
            pass
        finally:
            for stream in (writer, other):
                if stream is not None:
                    self._writers.discard(stream)
                    stream.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._thawed.wait()
                if answer and self._mode == "mute":
                    continue
                writer.write(data)
                await writer.drain()
            writer.write_eof()
