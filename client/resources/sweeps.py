"""``client.sweeps`` reads sweeps with their results. ``client.experiments.create_sweep`` creates them."""

from __future__ import annotations

from client.connection import API, path_segment
from client.resources.base import Resource
from core.protocol.sweeps import Sweep, SweepList


class Sweeps(Resource):
    """Calls on sweeps."""

    def list(self) -> SweepList:
        """Return the newest sweeps."""
        return self._connection.send("GET", f"{API}/sweeps", SweepList, idempotent=True)

    def get(self, name: str) -> Sweep:
        """Return a sweep: the fields that vary, and the result of each of its experiments."""
        return self._connection.send("GET", f"{API}/sweeps/{path_segment(name)}", Sweep, idempotent=True)
