"""``client.shares`` lists who shares the queue, and sets their weights."""

from __future__ import annotations

from client.connection import API, build_body
from client.resources.base import Resource
from core.protocol.shares import ShareList, ShareRequest

_PATH = f"{API}/shares"


class Shares(Resource):
    """Calls on the shares of the queue."""

    def list(self) -> ShareList:
        """Return all owners of runs: those with queued runs in the order of their turns, then the others."""
        return self._connection.send("GET", _PATH, ShareList, idempotent=True)

    def set(self, owner: str, weight: float) -> ShareList:
        """Set the weight of an owner; the caller's token needs the scope admin. Returns all shares.

        Raises:
            SpecError: The weight is not above 0.
        """
        body = build_body(ShareRequest, owner=owner, weight=weight)
        return self._connection.send("POST", _PATH, ShareList, body=body, idempotent=True)
