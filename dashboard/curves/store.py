"""The store of a browser session's curves.

An update sends the cursor of the last reply and merges the returned points. The complete history is requested again
only if it has changed on the backend (``RunCurves.update``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from client import Client
from core.protocol.public import RunSummary
from dashboard.curves.curve import MAX_POINTS, RunCurves

_MAX_RUNS = 400
"""Maximum number of runs whose curves a session stores. The run that was drawn longest ago is dropped first."""


class CurveStore:
    """The curves of every run that a session has drawn, stored in the session state."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, tuple[str, ...]], RunCurves] = {}

    def get(self, run_id: str, names: Sequence[str] = ()) -> RunCurves:
        """Return the stored curves of a run without a request; empty curves if none are stored.

        Args:
            run_id: The run.
            names: Metrics to which the curves are limited; empty for all metrics.
        """
        key = (run_id, tuple(names))
        stored = self._runs.pop(key, None) or RunCurves()
        self._runs[key] = stored  # moved to the end: the dictionary is ordered by last use
        while len(self._runs) > _MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        return stored

    def drop(self, run_id: str) -> None:
        """Discard the entry of a run with all its metrics, which is dozens of times as large as a limited one."""
        self._runs.pop((run_id, ()), None)

    def update(self, client: Client, run: RunSummary, names: Sequence[str] = ()) -> RunCurves:
        """Request the new points of a run, unless there can be no new points.

        Args:
            client: The client.
            run: The run.
            names: Metrics to request; empty for all metrics.

        Raises:
            ApiError: The backend refused the request.
            BackendUnreachable: The backend did not answer. The stored points are unchanged.
        """
        stored = self.get(run.id, names)
        summary_key = (run.state, run.attempt, run.step)
        if summary_key == stored.summary_key and (stored.complete or run.state != "running"):
            return stored
        stored.update(
            run.attempt,
            lambda cursor: client.metrics(run.id, names=names or None, since=cursor, max_points=MAX_POINTS),
        )
        stored.summary_key = summary_key
        return stored

    def update_some(
        self, client: Client, runs: Iterable[RunSummary], names: Sequence[str], budget: int
    ) -> dict[str, RunCurves]:
        """Update the curves of several runs and return them by run id.

        Args:
            client: The client.
            runs: The runs.
            names: Metrics to request; empty for all metrics.
            budget: Maximum number of requests in one call. A large comparison is completed over several calls, so that
                the page does not wait for all requests.
        """
        result: dict[str, RunCurves] = {}
        for run in runs:
            stored = self.get(run.id, names)
            not_started = run.state in ("waiting", "queued") and run.step == 0
            stale = stored.summary_key != (run.state, run.attempt, run.step)
            if budget > 0 and stale and not not_started:
                stored = self.update(client, run, names)
                budget -= 1
            result[run.id] = stored
        return result
