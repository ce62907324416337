"""Live data of the Run page: one small request per refresh returns state, new points and new log lines."""

from __future__ import annotations

from client import Client
from core.protocol.artifacts import RunUpdates
from core.protocol.public import TERMINAL, LogLine, MetricsReply, MetricValue, Run
from dashboard.curves.curve import RunCurves
from dashboard.curves.store import CurveStore

LOG_LINES = 200
"""Number of the newest log lines that are stored and shown."""
_TRAINING_LOSS = "train/loss"


class RunFeed:
    """The run that the Run page shows.

    Attributes:
        run: The run at the newest reply.
        curves: The curves of all its metrics, which the store contains.
        lines: The newest lines of its log.
    """

    run: Run

    def __init__(self, run_id: str, store: CurveStore) -> None:
        self.run_id = run_id
        self.curves: RunCurves = store.get(run_id)
        self.lines: list[LogLine] = []
        self._cursor = ""

    @property
    def ended(self) -> bool:
        return self.run.state in TERMINAL

    def update(self, client: Client) -> RunFeed:
        """Request and merge the updates of the run.

        Raises:
            ApiError: The backend refused the request.
            BackendUnreachable: The backend did not answer. Run, curves and log are unchanged.
        """
        previous = self.run if self._cursor else None
        news = self._request_news(client, self._cursor)
        progress = news.progress
        if previous is None or (previous.state, previous.attempt, previous.pausing) != (
            news.state,
            progress.attempt,
            progress.pausing,
        ):
            self.run = client.run(self.run_id)

        def fetch_since(cursor: int) -> MetricsReply:
            nonlocal news
            if not cursor and self._cursor:
                self.lines = []
                news = self._request_news(client, "")
            return news.metrics

        self.curves.update(progress.attempt, fetch_since)
        if news.lines:
            self.lines = [*self.lines, *news.lines][-LOG_LINES:]
        self._cursor = news.cursor
        self._apply_progress(news)
        return self

    def _request_news(self, client: Client, cursor: str) -> RunUpdates:
        return client.news(self.run_id, cursor, wait=0, tail=LOG_LINES)

    def _apply_progress(self, news: RunUpdates) -> None:
        """Update the run's progress and newest values from the reply, so that the run need not be requested."""
        progress = news.progress.model_dump(include={"step", "total_steps", "epoch", "total_epochs"})
        latest = dict(self.run.latest)
        for name in (self.run.headline, _TRAINING_LOSS):
            curve = self.curves.curves.get(name)
            if curve is not None and len(curve) and curve.resolution == 1:
                latest[name] = MetricValue(value=curve.value[-1], step=curve.step[-1], epoch=curve.epoch[-1])
        self.run = self.run.model_copy(update={**progress, "latest": latest})
