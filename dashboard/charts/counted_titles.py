"""Titles of shares, which name the number of images that they are shares of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from common.formatting import title_with_count
from dashboard.curves.curve import Curve


def with_count(title: str, metric: str, count_metric: str, curves: Iterable[Mapping[str, Curve]], item: str) -> str:
    """Return the title of a share with the number of test images that it is of in the runs that have measured it.

    Args:
        title: The title.
        metric: Name of the share.
        count_metric: Name of the metric with the number of images.
        curves: Curves of each run by metric.
        item: What an item of the data is called.
    """
    of_runs = [found for found in curves if len(found.get(metric, ()))]
    counts = [found[count_metric].value[-1] if len(found.get(count_metric, ())) else None for found in of_runs]
    return title_with_count(title, counts, item) if counts else title


def counted_title(
    title: str, metric: Mapping[str, Any], curves: Iterable[Mapping[str, Curve]], test_sizes: Iterable[int], item: str
) -> str:
    """Return the title of a metric, with the number of images if it is a share, also of all test images.

    Args:
        title: The title.
        metric: Entry of the catalog.
        curves: Curves of each shown run by metric, with the metric that counts the images.
        test_sizes: Number of test images of each shown run; 0 until it has started.
        item: What an item of the data is called.
    """
    if count_metric := metric.get("of"):
        return with_count(title, metric["name"], count_metric, curves, item)
    sizes = [size for size in test_sizes if size]
    return title_with_count(title, sizes, item) if metric.get("of_all") and sizes else title
