"""A run as its page follows it: read once, then only what is new, with one small request a tick."""

from __future__ import annotations

from client import Client
from core.protocol.artifacts import RunUpdates
from core.protocol.public import TERMINAL, LogLine, MetricValue, Run
from dashboard.curves.store import RunCurves

LOG_LINES = 200
"""The end of the log that is kept and shown."""
_HEADLINES = ("test/top1", "train/loss")


class RunFeed:
    """What a browser session holds of the run that its page shows.

    Attributes:
        run: as of the newest answer.
        curves: of all its metrics.
        lines: the end of its log.
    """

    run: Run

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.curves = RunCurves()
        self.lines: list[LogLine] = []
        self._cursor = ""

    def update(self, client: Client) -> RunFeed:
        """Ask for what is new, and take it in. Raises ApiError and BackendUnreachable; what is held stays."""
        known = self.run if self._cursor else None
        news = client.news(self.run_id, self._cursor, wait=0, tail=LOG_LINES)
        progress = news.progress
        if known is None or (known.state, known.attempt, known.pausing) != (
            news.state,
            progress.attempt,
            progress.pausing,
        ):
            self.run = client.run(self.run_id)
        if known is not None and known.attempt != progress.attempt:
            # A new attempt may begin before what is held; its points replace the old ones.
            news = self._from_start(client)
        if not self.curves.take(news.metrics):
            news = self._from_start(client)
            self.curves.take(news.metrics)
        if news.lines:
            self.lines = [*self.lines, *news.lines][-LOG_LINES:]
        self._cursor = news.cursor
        self._follow(news)
        return self

    def _from_start(self, client: Client) -> RunUpdates:
        self.curves.forget()
        self.lines = []
        return client.news(self.run_id, wait=0, tail=LOG_LINES)

    def _follow(self, news: RunUpdates) -> None:
        """The run as the progress and the curves have it, without asking for all of it."""
        moved = news.progress.model_dump(include={"step", "total_steps", "epoch", "total_epochs"})
        latest = dict(self.run.latest)
        for name in _HEADLINES:
            curve = self.curves.curves.get(name)
            if curve is not None and len(curve) and curve.resolution == 1:
                latest[name] = MetricValue(value=curve.value[-1], step=curve.step[-1], epoch=curve.epoch[-1])
        self.run = self.run.model_copy(update={**moved, "latest": latest})

    @property
    def ended(self) -> bool:
        return self.run.state in TERMINAL
