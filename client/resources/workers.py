"""``client.workers`` lists workers, and sets whether they accept runs."""

from __future__ import annotations

from client.connection import API, path_segment
from client.resources.base import Resource
from core.protocol.public import WorkerList

_PATH = f"{API}/workers"


class Workers(Resource):
    """Calls on workers."""

    def list(self) -> WorkerList:
        """Return every registered worker."""
        return self._connection.send("GET", _PATH, WorkerList, idempotent=True)

    def __call__(self) -> WorkerList:
        """Alias of ``list``, for scripts that call ``client.workers()``."""
        return self.list()

    def any_online(self) -> bool:
        """Return whether at least one worker is online."""
        return any(worker.state == "online" for worker in self.list().items)

    def drain(self, id_or_name: str, *, draining: bool = True) -> WorkerList:
        """Stop a worker from taking new runs, or let it take runs again. Its current runs continue.

        Repeating the call changes nothing.
        """
        path = f"{_PATH}/{path_segment(id_or_name)}/drain"
        return self._connection.send("POST", path, WorkerList, body={"draining": draining}, idempotent=True)
