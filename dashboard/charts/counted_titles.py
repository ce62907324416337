"""Titles of shares, which name the number of images that they are shares of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from common.formatting import title_with_count
from dashboard.curves.curve import Curve


def counted_title(
    title: str, metric: Mapping[str, Any], curves: Iterable[Mapping[str, Curve]], test_sizes: Iterable[int], item: str
) -> str:
    """Return the title of a metric, with the number of images if it is a share of them.

    Args:
        title: The title.
        metric: Entry of the catalog.
        curves: Curves of each shown run by metric, with the metric that counts the images.
        test_sizes: Number of test images of each shown run; 0 until it has started.
        item: What an item of the data is called.
    """
    counts: list[float | None] = []
    if count_metric := metric.get("of"):
        of_runs = [found for found in curves if len(found.get(metric["name"], ()))]
        counts = [found[count_metric].value[-1] if len(found.get(count_metric, ())) else None for found in of_runs]
    elif metric.get("of_all"):
        counts = [size for size in test_sizes if size]
    return title_with_count(title, counts, item) if counts else title
