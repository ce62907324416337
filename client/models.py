"""What the client hands out: the answers of the interface, which know where they come from and can ask on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, PrivateAttr

from client.errors import ClientSettingsError
from core.protocol import public
from core.protocol.public import TERMINAL

if TYPE_CHECKING:
    import pandas as pd

    from client.client import Client


class _Asking(BaseModel):
    """Something that came from a backend and can ask it for more."""

    _client: Any = PrivateAttr(default=None)

    @property
    def client(self) -> Client:
        """The client that it came from. Raises ClientSettingsError for one that was made by hand."""
        if self._client is None:
            raise ClientSettingsError("this was not read from a backend, so there is none to ask")
        found: Client = self._client
        return found


class Metrics(public.MetricsReply):
    """Metrics of one run."""

    def to_pandas(self) -> pd.DataFrame:
        """A row a point: run, name, step, epoch, elapsed, value, low, high, resolution.

        ``low`` and ``high`` are the value itself where a row is a single point.
        Raises ClientSettingsError without pandas.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ClientSettingsError("to_pandas needs pandas: pip install pandas") from None
        columns: dict[str, list[Any]] = {
            name: [] for name in ("run", "name", "step", "epoch", "elapsed", "value", "low", "high", "resolution")
        }
        for series in self.series:
            count = len(series.step)
            columns["run"] += [self.run_id] * count
            columns["name"] += [series.name] * count
            columns["step"] += series.step
            columns["epoch"] += series.epoch
            columns["elapsed"] += series.elapsed
            columns["value"] += series.value
            columns["low"] += series.value if series.low is None else series.low
            columns["high"] += series.value if series.high is None else series.high
            columns["resolution"] += [series.resolution] * count
        return pd.DataFrame(columns)

    def last(self, name: str) -> float:
        """The newest value of a metric; NaN where there is none."""
        return next(
            (float(series.value[-1]) for series in self.series if series.name == name and series.value), math.nan
        )


class _AskingRun(_Asking):
    if TYPE_CHECKING:
        id: str

    def metrics(self, names: Sequence[str] | None = None, *, max_points: int = 2000) -> Metrics:
        """Its metrics: those named, or all."""
        return self.client.metrics(self.id, names=names, max_points=max_points)

    def whole(self) -> Run:
        """Everything that is known of it, as it is now."""
        return self.client.run(self.id)

    def cancel(self) -> Run:
        """Cancel it. Doing it twice changes nothing."""
        return self.client.cancel(self.id)

    def retry(self) -> Run:
        """Queue it again where it failed or was cancelled."""
        return self.client.retry(self.id)


class RunSummary(_AskingRun, public.RunSummary):
    """A run as a list shows it."""


class RunPage(public.RunPage):
    items: list[RunSummary]  # type: ignore[assignment]  # narrower, and only read


class Run(_AskingRun, public.Run):
    """A run, whole."""

    def wait(self, *, timeout: float | None = None, interval: float = 1.0) -> Run:
        """Wait for its end, and return it as it is then. Raises TimeoutError after ``timeout`` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        found = self.client.run(self.id)
        while found.state not in TERMINAL:
            _sleep(interval, until, f"run {self.id} is still {found.state}")
            found = self.client.run(self.id)
        return found


class Experiment(_Asking, public.Experiment):
    """An experiment with its runs."""

    runs: list[RunSummary]  # type: ignore[assignment]  # narrower, and only read

    def refresh(self) -> Experiment:
        """As it is now."""
        return self.client.experiment(self.id)

    def wait(self, *, progress: bool = False, timeout: float | None = None, interval: float = 1.0) -> Experiment:
        """Wait until every run has ended, and return the experiment as it is then.

        Whether all went well is in ``state``: "finished", "failed" or "cancelled".

        Args:
            progress: show it on the terminal.
            timeout: seconds; None waits as long as it takes.

        Raises:
            TimeoutError: it has not ended by then; the runs go on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        if progress:
            # Imported here: a script that shows nothing needs no terminal library.
            from client.progress import of_experiment, watch
            from client.rendering.tables import console_for

            def in_time() -> None:
                if until is not None and time.monotonic() > until:
                    raise TimeoutError(f"{self.name} has not ended yet")

            watch(self.client, lambda: of_experiment(self.client, self.id), console_for(), tick=in_time)
            return self.refresh()
        found = self.refresh()
        while found.state == "active":
            _sleep(interval, until, f"{self.name} has not ended yet")
            found = self.refresh()
        return found

    def cancel(self) -> Experiment:
        """Cancel what has not ended. Doing it twice changes nothing."""
        return self.client.cancel_experiment(self.id)

    def comparison(self, **options: Any) -> public.Comparison:
        """Its methods side by side; options as of ``Client.comparison``."""
        return self.client.comparison(self.id, **options)

    def attached(self, client: Client) -> Self:
        self._client = client
        for run in self.runs:
            run._client = client
        return self


def _sleep(interval: float, until: float | None, otherwise: str) -> None:
    if until is not None and time.monotonic() + interval > until:
        raise TimeoutError(otherwise)
    time.sleep(interval)
