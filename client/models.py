"""Replies of the API with a method for analysis added. They are plain data and hold no connection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from client.errors import ClientSettingsError
from core.protocol.public import MetricsReply

if TYPE_CHECKING:
    import pandas as pd


class Metrics(MetricsReply):
    """Metrics of one run."""

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row per point.

        Its columns are run, name, step, epoch, elapsed, value, low, high and resolution; ``low`` and ``high`` equal
        ``value`` if a row is a single point.

        Raises:
            ClientSettingsError: pandas is not installed.
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
        """Return the newest value of a metric; NaN if it has none."""
        return next(
            (float(series.value[-1]) for series in self.series if series.name == name and series.value), math.nan
        )
