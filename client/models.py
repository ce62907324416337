"""Replies of the API with additional methods for analysis. They are plain data without a connection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from client.errors import ClientSettingsError
from core.protocol.public import Comparison, MetricsReply

if TYPE_CHECKING:
    import pandas as pd


class Metrics(MetricsReply):
    """Metrics of one run."""

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row per point.

        The columns are run, name, step, epoch, elapsed, value, low, high and resolution. If a row is a single point,
        ``low`` and ``high`` equal ``value``.

        Raises:
            ClientSettingsError: Pandas is not installed.
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
        """Return the newest value of a metric; NaN if the metric has no value."""
        return next(
            (float(series.value[-1]) for series in self.series if series.name == name and series.value), math.nan
        )


class ComparisonResult(Comparison):
    """A comparison, which a notebook shows as a table with the referee's sentences."""

    def _repr_html_(self) -> str:
        # Imported here: scripts that show nothing need no terminal library.
        from client.rendering import html

        return html.result(self)
